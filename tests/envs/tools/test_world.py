"The world, its sources, its tools: the same everywhere, and nothing of this machine."

import hashlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from math import sqrt

import pytest

from agentkit.core.errors import AgentkitError
from agentkit.envs.tools.calculator import LARGEST, NotComputable, calculate, read_calculation
from agentkit.envs.tools.kinds import INTERNET, KINDS, WIKIPEDIA, as_date
from agentkit.envs.tools.search import Seen, called, look_up
from agentkit.envs.tools.shell import ShellError, run_command
from agentkit.envs.tools.tools import TOOLS, Desk, Tool, read_arguments, simulated, tool_list
from agentkit.envs.tools.world import TODAY, World, words, world

FINGERPRINT = (
    'import hashlib\n'
    'from agentkit.envs.tools.world import World\n'
    'w = World(7)\n'
    'facts = [[t.name, t.facts, sorted(t.moved), t.disputed, t.orders] for ts in w.things.values() for t in ts]\n'
    'print(hashlib.sha256(repr((facts, w.files, w.tips, w.relatives, w.lists)).encode()).hexdigest())\n'
)


def test_a_world_is_the_same_in_every_process():
    prints = {
        subprocess.run(
            [sys.executable, '-c', FINGERPRINT],
            capture_output=True,
            text=True,
            env={**os.environ, 'PYTHONHASHSEED': seed},
        ).stdout
        for seed in ('0', '1', 'random')
    }
    assert len(prints) == 1 and len(prints.pop().strip()) == hashlib.sha256().digest_size * 2


def test_a_world_is_as_large_as_promised():
    here = World(3)
    things = [t for ts in here.things.values() for t in ts]
    assert len(things) >= 2000 and all(len(t.facts) == 6 for t in things)
    assert Counter(a.source for facts in KINDS.values() for a in facts.values()) == {WIKIPEDIA: 15, INTERNET: 15}
    assert sum(bool(t.orders) for t in things) > 40 and sum(bool(t.disputed) for t in things) > 40
    assert any(c.old for c in here.contacts.values()) or any(c.old for c in World(4).contacts.values())
    text = json.dumps([vars(t) for t in things], default=str, ensure_ascii=False).replace('\\"', '!')
    assert not any(c in v for t in things for v in map(str, t.facts.values()) for c in '"\\') and '\\' not in text


def test_the_two_sorts_of_names_share_no_word():
    assert not set(words()) & set(words(other=True))
    used = {w for name in World(1, other=True).things for w in name.split()}
    assert not used & set(words())


def test_luck_is_drawn_from_the_query_and_comes_as_often_as_it_should():
    n, counts = 4000, Counter()
    for k in range(n):
        counts[Desk(world(0), 'task', k, 0.1, 0.1).draw('search_internet', 'the price')[0]] += 1
    for luck in ('none', 'part'):
        assert abs(counts[luck] / n - 0.1) < 4 * sqrt(0.09 / n)
    one, other = (Desk(world(0), 'task', 5, 0.3, 0.3) for _ in range(2))
    other.draw('search_wikipedia', 'something else')
    assert [one.draw('search_internet', 'A b')[0] for _ in range(9)] == [
        other.draw('search_internet', 'a  B.')[0] for _ in range(9)
    ]
    assert len({Desk(world(0), f'task {k}', 5, 0.3, 0.3).draw('search_internet', 'a')[0] for k in range(30)}) == 3
    assert Counter(Desk(world(0), 't', k).draw('x', 'y')[0] for k in range(200)) == {'all': 200}


def test_a_search_tells_the_truth_or_that_it_has_none():
    r, here = random.Random(3), world(1)
    for thing in r.sample([t for ts in here.things.values() for t in ts], 150):
        attribute = r.choice(list(thing.facts))
        texts = {tool: look_up(tool, f'the {attribute} of {called(thing)}', here) for tool in (WIKIPEDIA, INTERNET)}
        knows = thing.source(attribute)
        seen = Seen()
        for tool, text in texts.items():
            seen.read(tool, text)
        key = attribute, called(thing)
        assert (key in seen.facts) != (attribute in thing.disputed)
        assert {tool for tool, *_ in seen.absent} == {WIKIPEDIA, INTERNET} - {knows}
        half = Seen()
        half.read(knows, look_up(knows, f'the {attribute} of {called(thing)}', here, part=True))
        assert not half.facts and not half.absent


@pytest.mark.parametrize(
    'attack',
    [
        *('9**9**9', '9**99999999', '2**-99999', '1e308*10', '1e400', '10**15*10**15', 'sqrt(-4)', '(-8)**0.5'),
        *('"%0999999999d" % 1', '"a"*99', '(9,)*99999999', '[1]*9', '{1: 2}', 'b"1"', 'True + 1', 'None', '1j', '...'),
        *(
            '__import__("os").system("ls")',
            '().__class__.__bases__',
            'open("x")',
            'lambda: 1',
            'x',
            'x := 1',
            'sum(*[1])',
        ),
        *(
            'sum(x for x in [1])',
            'eval("1")',
            'f"{1}"',
            '1 if 1 else 2',
            '1 < 2',
            '1 and 2',
            '~1',
            'not 1',
            '1 // 0',
            '1 % 0',
        ),
        *(
            'max()',
            'sum(a=1)',
            'abs(1, 2)',
            '(' * 299,
            '-' * 300 + '1',
            '1;2',
            '1\n2',
            '',
            ' ',
            '١+١ٓ',
            'sum(1,',
            'math.sqrt(4)',
        ),
    ],
)
def test_the_calculator_computes_numbers_and_nothing_else(attack):
    with pytest.raises(NotComputable) as why:
        calculate(attack)
    assert len(str(why.value).splitlines()) == 1


def test_the_calculator_is_right():
    r = random.Random(1)
    for _ in range(300):
        a, b, c = (r.randint(-999, 999) for _ in range(3))
        assert calculate(f'({a} + {b}) * {c} - {a} / 4') == pytest.approx((a + b) * c - a / 4)
    assert calculate('1,000*2') == 2000 and calculate('1,234,567.5 + 1') == 1234568.5 and calculate('2**40') < LARGEST
    said = {
        'Calculate the sum of 12, 30 and 5.': 47,
        'Calculate the average of the numbers 88, 46, 70, 81, and 90.': 75,
        'Calculate the difference between 30 and 1,200.': 1170,
        'Calculate 30 as a percentage of 120.': 25,
        'Compute 1,200 minus 149.': 1051,
        'What is 2 * (3 + 4)': None,
        'Subtract 3 from 10.': 7,
        'Calculate 15% of 200': 30,
        'Divide things': None,
        'Calculate 12 divided by 4.': 3,
    }
    for task, right in said.items():
        if right is None:
            with pytest.raises(NotComputable):
                calculate(read_calculation(task))
        else:
            assert calculate(read_calculation(task)) == right, task


@pytest.mark.parametrize(
    'line',
    [
        *(
            'cat /etc/passwd',
            'cat ../../etc/passwd',
            'cat ~root/x',
            'ls /',
            'find / -name x',
            'echo x > /tmp/x',
            'echo x > ../x',
        ),
        *(
            'rm contacts.csv',
            'python -c 1',
            'curl http://x',
            'bash -c ls',
            'echo $(ls)',
            'echo `ls`',
            'ls; ls',
            'ls && ls',
            'ls & ls',
        ),
        *(
            'cat < contacts.csv',
            'ls\nls',
            'echo ${HOME}',
            "cat 'a",
            'cat a | ',
            '| cat',
            '> x > y',
            'echo a > b > c',
            'sudo ls',
        ),
        *(
            'date -d',
            'date -d soon',
            'date -d "4 May 2031 + 9999999 days"',
            'head -x',
            'grep',
            'cat contacts.csv/x',
            'nope',
        ),
        *('date -d "9999-12-31 + 9 days"', 'echo ' + 'x' * 5000 + ' > big'),
    ],
)
def test_the_shell_is_a_dictionary(line, tmp_path):
    files = {'contacts.csv': 'name,email\n', 'docs/a.txt': '1\n'}
    before = dict(files)
    with pytest.raises(ShellError):
        shown = run_command(line, files, TODAY)
        raise AssertionError(f'{line!r} showed {shown!r}')
    assert files == before


def test_the_shell_shows_what_a_shell_shows():
    files = {'a.txt': 'one\ntwo\nthree\n', 'docs/b.txt': '5\n'}
    shown = {
        'cat a.txt | grep t | wc -l': '2',
        'ls': 'a.txt\ndocs',
        'ls docs': 'b.txt',
        'cat docs/b.txt': '5',
        'cat ~/a.txt | head -1': 'one',
        'tail -n 1 /home/user/a.txt': 'three',
        'sort -r a.txt': 'two\nthree\none',
        'grep -i ONE a.txt': 'one',
        'grep -c t a.txt': '2',
        'find . -name b.txt': './docs/b.txt',
        'pwd': '/home/user',
        "date -d '4 May 2031 + 2 days' +%F": '2031-05-06',
        'date -d tomorrow +%F': '2031-03-15',
        "date -d '2031-03-01 - 1 day'": '2031-02-28',
    }
    assert {line: run_command(line, files, TODAY) for line in shown} == shown
    assert run_command("echo 'a b' > new.txt", files, TODAY) == '' and files['new.txt'] == 'a b\n'
    assert run_command('echo c >> new.txt', files, TODAY) == '' and files['new.txt'] == 'a b\nc\n'
    assert run_command('date', files, TODAY) == '2031-03-14'


def test_nothing_that_is_said_to_a_tool_raises():
    r, desk = random.Random(5), Desk(world(0))
    pieces = [
        'Search for',
        'the price of',
        'a@b.example',
        '4 May 2031',
        '31 February 2031',
        '2031-13-45',
        '0/0',
        '`',
        "'",
        '|',
        '>',
        '\0',
        '≤',
        '25:61',
    ]
    pieces += [
        desk.world.twins[0],
        desk.world.named['film'][0],
        '{"a": 1}',
        'subject',
        'text:',
        '%',
        '((((',
        '9**9',
        '\n',
        'x' * 500,
    ]
    for _ in range(400):
        for tool in TOOLS:
            task = ' '.join(r.choices(pieces, k=r.randint(1, 6)))
            text = tool.use(task, desk)
            assert isinstance(text, str) and text.strip()
            assert isinstance(tool.call(dict(query=task, question=task, date=task), desk), str)


def test_words_become_arguments():
    tools = tool_list()
    said = [
        (
            'create_event',
            'Create a reminder for watching the Olympic Winter Games on TV on February 8, 2026.',
            dict(date='2026-02-08'),
        ),
        (
            'create_event',
            'Add an event called Dinner at 8 pm on 2031-05-04.',
            dict(title='Dinner', date='2031-05-04', time='20:00'),
        ),
        ('create_event', 'Schedule Lunch for 4 May 2031 at 12:30.', dict(title='Lunch', time='12:30')),
        ('send_email', 'Send an email to a@b.example saying that dinner is at 8.', dict(recipient='a@b.example')),
        (
            'send_email',
            "Email a@b.example with the subject Hi and the message: It's 5.5.",
            dict(subject='Hi', body="It's 5.5"),
        ),
        (
            'search_wikipedia',
            'Search Wikipedia for the director of the movie Saving Private Ryan.',
            dict(query='the director of the movie Saving Private Ryan'),
        ),
        (
            'search_internet',
            'Find the last 5 movies released by DreamWorks.',
            dict(query='the last 5 movies released by DreamWorks'),
        ),
        ('use_bash', 'Run the command: cat a.txt', dict(command='cat a.txt')),
        ('use_bash', 'ls', dict(command='ls')),
        ('ask_user', "Ask the user for their friend's email address.", dict(question="their friend's email address.")),
        ('final_answer', 'The final answer is: 42.', dict(answer='42.')),
    ]
    for tool, task, wanted in said:
        assert wanted.items() <= tools[tool].arguments(task).items(), (task, tools[tool].arguments(task))
    with pytest.raises(AgentkitError, match='has no dates'):
        tools['create_event'].arguments('Create an event.')
    with pytest.raises(AgentkitError, match='has 2 dates'):
        tools['create_event'].arguments('Create an event on 4 May 2031 or 5 May 2031.')
    with pytest.raises(AgentkitError, match='names 2 addresses'):
        tools['send_email'].arguments('Send an email to a@b.example and c@d.example.')


def test_a_date_is_a_date_however_it_is_written():
    forms = ['4 May 2031', '4th of May 2031', 'May 4, 2031', 'May 4th 2031', '2031-05-04', '2031-5-4']
    assert {as_date(f'on {form}.') for form in forms} == {as_date('2031-05-04')}
    for wrong in ('31 February 2031', '2031-13-01', 'May', '4 May'):
        with pytest.raises(AgentkitError):
            as_date(wrong)


def test_the_user_says_what_only_they_know():
    desk = Desk(world(0))
    ask = tool_list()['ask_user'].use
    contact = next(c for c in desk.world.contacts.values() if not c.old)
    moved = next(c for c in desk.world.contacts.values() if c.old)
    assert desk.world.relatives['boss'] in ask("Ask the user for the boss's email address.", desk)
    assert ask(f'Ask the user for the email address of {contact.name}.', desk) == 'It is in contacts.csv.'
    assert moved.email in ask(f'Ask the user for the new email address of {moved.name}.', desk)
    film = desk.world.named['film'][0]
    assert ask(f'Ask the user for the director of the film {film}.', desk) == 'I do not know that.'
    twin = desk.world.twins[0]
    assert desk.world.things[twin][0].called in ask(f'Ask the user which {twin} is meant.', desk)


def test_a_tool_of_ones_own_needs_no_reader():
    schema = dict(
        type='object', properties=dict(zone=dict(type='string'), hours=dict(type='integer')), required=['zone', 'hours']
    )
    clock = Tool('clock', 'Useful for times.', schema, lambda given, desk: f'{given["zone"]} {given["hours"] + 1}')
    assert clock.use('Tell the time, zone: Europe/Vienna; hours: 3.', Desk(world(0))) == 'Europe/Vienna 4'
    assert clock.use('Tell the time.', Desk(world(0))) == 'Write the arguments as zone: …; hours: ….'
    assert 'no integer' in clock.use('zone: x; hours: many', Desk(world(0)))
    assert clock.call(dict(zone='x', hours='many'), Desk(world(0))).startswith("clock: 'many' is not of type")
    assert read_arguments('anything', dict(properties={})) == {}


def test_a_model_can_stand_in_for_a_tool():
    prompts, desk = [], Desk(world(0))
    tool = simulated(tool_list()['final_answer'], lambda prompt: prompts.append(prompt) or 'Forty-two.')
    assert tool.use('Give the answer.', desk) == 'Forty-two.' and desk.answer == 'Forty-two.'
    assert 'Give the answer.' in prompts[0] and 'Useful for providing the final answer' in prompts[0]
