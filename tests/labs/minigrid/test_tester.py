"The tester: typed, scripted and clicked sessions leave the same log; what cannot be is one line."

import json
import re
import signal
import subprocess
import sys

import pytest
from conftest import ROOT
from flaky import FlakyServer, said
from labs.minigrid.test_sources import answering, saved

from agentkit.agents.programs import Program
from agentkit.core.errors import AgentkitError
from agentkit.core.store import read_json
from agentkit.envs.babyai.present import ANSWERS
from agentkit.envs.babyai.world import ACTIONS, World
from agentkit.labs.minigrid.sources import hint_agent
from agentkit.labs.minigrid.tester import COMMANDS, HintTester, main, read_commands, screen, session

TIMES = ('timestamp', 'session_start', 'session_end')


def timeless(log):
    "A log without its clocks."
    kept = {k: v for k, v in log.items() if k not in TIMES}
    return {**kept, 'interactions': [{k: v for k, v in i.items() if k not in TIMES} for i in log['interactions']]}


def logged(folder):
    (path,) = folder.glob('llm_interactive_session_*.json')
    return read_json(path)


def walked(tester, commands, folder, **options):
    "The log of a session, and what was shown."
    shown = []
    return read_json(session(tester, commands, folder, show=shown.append, **options)), shown


def command(*words, **options):
    line = [sys.executable, '-m', 'agentkit.labs.minigrid.tester', *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, **options)


# --- the log ---

FIELDS = (
    *('step', 'episode', 'timestamp', 'mission', 'agent_pos', 'agent_direction', 'action_taken', 'action_name'),
    *('reward', 'done', 'hint_available', 'hint_value', 'hint_type', 'hint_name', 'encoding_used', 'encoded_state'),
)
HEAD = (
    *('environment', 'hint_type', 'hint_source', 'encoding_type', 'seed', 'total_steps', 'total_episodes'),
    *('session_start', 'session_end', 'interactions'),
)


def test_the_log_has_the_fields_of_the_source_system(tmp_path):
    log, _ = walked(HintTester(), ['2', '1', 'q'], tmp_path)
    assert not [f for f in HEAD if f not in log] and log['total_steps'] == 2 and log['total_episodes'] == 1
    for i in log['interactions']:
        assert not [f for f in FIELDS if f not in i] and 'llm_call' not in i


def test_the_log_tells_what_happened_in_the_world(tmp_path):
    words = '1 2 2 3 0 2 5 4 6'.split()
    log, _ = walked(HintTester('PutNextLocal', 'action', 'planner', seed=4), words, tmp_path)
    world = World('PutNextLocal', 4, full=True)
    for i, word in zip(log['interactions'], words):
        x, y = world.position
        assert (i['agent_pos'], i['agent_direction']) == ([x, y], int(world.env.agent_dir))
        assert i['mission'] == world.env.mission and i['action_name'] == ACTIONS[int(word)] == COMMANDS[word]
        assert i['hint_value'] == ACTIONS.index(i['hint_name']) and i['hint_available'] == 1
        world.act(i['action_name'])
        assert (i['reward'], i['done']) == (world.reward, world.ended)


def test_who_follows_the_hints_wins_and_goes_on_to_the_next_world(tmp_path):
    tester = HintTester('GoToLocal', 'action', seed=3)

    def follow():
        for _ in range(2):
            while not tester.end:
                yield str(ACTIONS.index(tester.wanted))
            yield 'r'

    log, shown = walked(tester, follow(), tmp_path)
    last = [i for i in log['interactions'] if i['done']]
    assert [i['seed'] for i in last] == [3, 4] and all(i['won'] for i in last) and log['total_episodes'] == 3
    assert len(tester.episodes) == 2 and all(t.won for t in tester.episodes)
    assert [s.hint.action for s in tester.episodes[0].steps] == [s.action for s in tester.episodes[0].steps]
    assert any('won, reward 0.' in text for text in shown)


def test_no_hint_has_no_value_and_a_reason(tmp_path):
    policy = Program(lambda state: 'wander', 'lost')
    log, shown = walked(HintTester(hint_source='agent', policy=policy), ['2'], tmp_path)
    (i,) = log['interactions']
    assert (i['hint_available'], i['hint_name'], i['hint_value']) == (0, '', None)
    assert i['hint_why'] == "lost says 'wander', which is no subgoal"
    assert 'no hint of agent: lost says' in shown[0]


@pytest.mark.parametrize('encoding', ['natural', 'ascii', 'tuples', 'relative', 'resolved'])
def test_the_grid_is_told_in_each_way(encoding, tmp_path):
    log, shown = walked(HintTester(encoding=encoding), ['2'], tmp_path)
    (i,) = log['interactions']
    assert log['encoding_type'] == i['encoding_used'] == encoding and i['encoded_state'] in shown[0]


# --- three faces, one log ---


def test_typed_scripted_and_clicked_sessions_leave_the_same_log(tmp_path):
    options = ['--env', 'GoToLocal', '--hint-type', 'action', '--seed', '5', '--hint-source', 'babyai_bot']
    folders = [tmp_path / name for name in ('typed', 'scripted', 'file', 'clicked')]
    script = tmp_path / 'walk.txt'
    script.write_text('2 2 1\n2 r 0\nq 1\n')
    typed = command(*options, '--output-dir', folders[0], input='2\n2 1\n2\nr\n0\nq\n')
    assert typed.returncode == 0, typed.stderr
    scripted = command(*options, '--output-dir', folders[1], '--commands', '2 2 1 2 r 0 q')
    assert main([*options, '--output-dir', str(folders[2]), '--commands', str(script)]) == 0
    tester = HintTester('GoToLocal', 'action', 'bot', seed=5)
    pytest.importorskip('ipywidgets')
    from agentkit.research.widgets import GameWidget

    widget = GameWidget(tester)
    for name in ('forward', 'forward', 'right', 'forward', '', 'left'):
        widget.buttons[name].click() if name else widget.again.click()
    logs = [timeless(logged(folder)) for folder in folders[:3]]
    assert logs[0] == logs[1] == logs[2] == timeless(json.loads(json.dumps(tester.log())))
    assert logs[0]['total_steps'] == 5 and logs[0]['total_episodes'] == 2
    unprompted = re.sub(r'^(> )+', '', typed.stdout, flags=re.M)
    assert unprompted.split('the log')[0] == scripted.stdout.split('the log')[0]


def test_a_log_can_be_played_again(tmp_path):
    log, _ = walked(HintTester('PickupLoc', seed=2), '2 1 r 0 2'.split(), tmp_path / 'one')
    episodes = [[i for i in log['interactions'] if i['episode'] == e] for e in (1, 2)]
    again = ' r '.join(' '.join(str(i['action_taken']) for i in some) for some in episodes)
    other, _ = walked(HintTester(log['environment'], seed=log['seed']), again.split(), tmp_path / 'two')
    assert timeless(other) == timeless(log)


def test_the_widget_shows_the_hint_and_the_next_world():
    pytest.importorskip('ipywidgets')
    from agentkit.research.widgets import GameWidget

    tester = HintTester('GoToLocal', seed=5)
    widget = GameWidget(tester)
    widget.hint.click()
    assert widget.status.value.endswith(tester.wanted) and widget.picture.value.startswith('<img')
    before = widget.picture.value
    widget.again.click()
    assert widget.picture.value != before and tester.task.data['seed'] == 6


# --- a saved agent ---


def test_a_saved_agent_gives_the_hints_and_its_calls_are_kept(tmp_path):
    with answering('subgoal') as server:
        path = saved(tmp_path, 'ascii', 'subgoal', server.url)
        folder = tmp_path / 'logs'
        code = main(['--model-path', f'{path}@{server.url}', '--commands', '2 d 1 s d q', '--output-dir', str(folder)])
        agent = hint_agent(f'{path}@{server.url}', 'subgoal')
        same, _ = walked(
            HintTester(policy=agent, hint_source='dspy', model=f'{path}@{server.url}'), ['2', '1'], tmp_path / 'b'
        )
    log = logged(folder)
    assert code == 0 and log['hint_source'] == 'agent' and log['encoding_type'] == 'ascii'
    assert timeless(log) == timeless(same)
    for i in log['interactions']:
        assert i['hint_name'] == i['llm_call']['response'] and i['hint_name'] in ANSWERS['subgoal']
        assert i['encoded_state'] in i['llm_call']['prompt'] and i['llm_call']['usage']['prompt_tokens'] == 10
    assert len(list(folder.glob('*_episode_1_step_2.png'))) == 1


def test_details_are_shown_hidden_and_switched(tmp_path, capsys):
    with answering('action') as server:
        path = saved(tmp_path, 'natural', 'action', server.url)
        line = ['--hint-type', 'action', '--model-path', f'{path}@{server.url}', '--output-dir', str(tmp_path)]
        counts = []
        for more in ([], ['--hide-llm-details'], ['--no-hide-llm-details']):
            assert main([*line, *more, '--commands', '2 d 2 q']) == 0
            screens = capsys.readouterr().out.split('--- episode')[1:]
            counts.append(['was asked:' in text for text in screens])
    assert counts == [[True, True, False, False], [False, False, True, True], [True, True, False, False]]


def test_no_key_stands_in_a_log(tmp_path, monkeypatch):
    secret = 'sk-' + 'a1B2' * 12
    with FlakyServer(lambda number, body: said(f'my key is {secret}')) as server:
        agent = hint_agent(f'openai/m@{server.url}', 'subgoal')
        path = session(HintTester(policy=agent, hint_source='agent'), ['2'], tmp_path, show=lambda text: None)
    assert secret not in path.read_text() and 'my key is' in path.read_text()


# --- commands ---


def test_s_saves_the_picture_of_the_state(tmp_path):
    tester = HintTester('PickupLoc', seed=1, full=False)
    _, shown = walked(tester, ['2', 's', '1', 's'], tmp_path)
    one, two = sorted(tmp_path.glob('*.png'))
    assert one.read_bytes() != two.read_bytes() == tester.kind.draw(tester.state)
    assert str(one) in shown and one.stat().st_size < 20_000


def test_two_sessions_of_one_second_have_two_logs(tmp_path):
    for _ in range(3):
        walked(HintTester(), ['2'], tmp_path)
    assert len(list(tmp_path.glob('*.json'))) == 3


def test_nothing_done_is_no_log(tmp_path):
    assert session(HintTester(), ['d', 'q'], tmp_path, show=lambda text: None) is None and not list(tmp_path.iterdir())


def test_what_is_typed_wrong_is_said_and_the_session_goes_on(tmp_path):
    run = command('--output-dir', tmp_path, input='forward\n7\n\n2\n')
    assert run.returncode == 0 and run.stdout.count('is no command: write 0 left, 1 right') == 2
    assert logged(tmp_path)['total_steps'] == 1, 'the end of the input is the end of the session'


def test_after_the_end_there_is_another_world_or_the_end(tmp_path):
    tester = HintTester('GoToLocal', 'action', seed=3)
    while not tester.end:
        tester.do(tester.wanted)
    assert tester.wanted == '' and 'r another world, q quit' in screen(tester)
    _, shown = walked(tester, ['2', 'r', '2'], tmp_path / 'soft', strict=False)
    assert any('2: this episode is over (won); r is another world' in text for text in shown)
    tester = HintTester('GoToLocal', 'action', seed=3)
    steps = []
    while not tester.end:
        steps.append(str(ACTIONS.index(tester.wanted)))
        tester.do(tester.wanted)
    with pytest.raises(AgentkitError, match='this episode is over'):
        session(HintTester('GoToLocal', seed=3), [*steps, '2'], tmp_path / 'hard', show=lambda text: None)
    assert logged(tmp_path / 'hard')['total_steps'] == len(steps), 'what was done is kept'


def test_an_interrupt_keeps_what_was_done(tmp_path):
    line = [sys.executable, '-m', 'agentkit.labs.minigrid.tester', '--output-dir', str(tmp_path)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run = subprocess.Popen(line, text=True, cwd=ROOT, bufsize=0, **pipes)
    run.stdin.write('2\n')
    for text in iter(run.stdout.readline, ''):
        if 'step 1' in text:
            break
    run.send_signal(signal.SIGINT)
    _, err = run.communicate()
    assert run.returncode == 130 and err.count('\n') == 1 and 'Traceback' not in err
    assert logged(tmp_path)['total_steps'] == 1


def test_commands_from_a_file_and_from_the_line(tmp_path):
    script = tmp_path / 'a walk.txt'
    script.write_text('2 2\n\n1 q\n')
    assert read_commands(str(script)) == read_commands('2 2 1 q') == ['2', '2', '1', 'q']
    script.write_text('2 two\n')
    with pytest.raises(AgentkitError, match="'two' is none of 0, 1, 2"):
        read_commands(str(script))
    script.write_bytes(b'\xff\xfe')
    for wrong in (script, tmp_path, 'x ' * 300):
        with pytest.raises(AgentkitError, match='is no file, and no list of 0, 1, 2') as e:
            read_commands(str(wrong))
        assert '\n' not in str(e.value) and len(str(e.value)) < 200


@pytest.mark.parametrize(
    'words, why',
    [
        (['--env', 'GoToObjs'], "unknown level 'GoToObjs'; did you mean 'GoToObj'"),
        (['--hint-type', 'both'], 'hint-type'),
        (['--hint-source', 'oracle'], "hint_source is 'oracle'"),
        (['--hint-source', 'dspy'], 'which one'),
        (['--hint-source', 'bot', '--model-path', 'x'], 'the hints are of the bot'),
        (['--model-path', 'nowhere'], 'nowhere does not exist'),
        (['--model-path', 'local/nowhere'], 'nowhere'),
        (['--encoding', 'asci'], "encoding_type 'asci' cannot be asked for the subgoal"),
        (['--seed', '-1'], 'seed'),
        (['--seed', 'one'], 'seed'),
        (['--commands', '2 9'], 'is no file, and no list of'),
        (['--comands', '2'], '--comands'),
        (['--config', 'nowhere.yaml'], 'nowhere.yaml'),
    ],
)
def test_what_cannot_be_is_one_line(words, why, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert why in err and err.count('\n') == 1 and err.startswith('tester: ') and not out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'options, why',
    [
        ('sead: 1', "unknown option 'sead'; did you mean 'seed'"),
        ('seed: one', "seed is 'one', and not a whole number from 0"),
        ('full: maybe', "full is 'maybe', and not true or false"),
        ('env: 5', 'env is 5, and not a text'),
        ('hint_type: both', "hint_type is 'both', and not one of action, subgoal"),
    ],
)
def test_a_file_of_options_is_checked_too(options, why, tmp_path, capsys):
    (tmp_path / 'o.yaml').write_text(options)
    assert main(['--config', str(tmp_path / 'o.yaml'), '--commands', 'q']) == 2
    assert why in capsys.readouterr().err


def test_options_from_a_file(tmp_path):
    (tmp_path / 'o.yaml').write_text(f'commands: 2 1 q\nseed: 3\nfull: false\noutput_dir: {tmp_path / "out"}\n')
    assert main(['--config', str(tmp_path / 'o.yaml'), '--seed', '4']) == 0
    log = logged(tmp_path / 'out')
    assert (log['seed'], log['full'], log['total_steps']) == (4, False, 2)


def test_every_option_has_a_word_of_help():
    run = command('--help')
    text = ' '.join(re.sub(r'[│╭╮╰╯─]', ' ', run.stdout).split())
    for option in ('--env', '--hint-type', '--hint-source', '--model-path', '--encoding', '--seed', '--commands'):
        assert re.search(rf'{option} [A-Z]+ \w+', text), option
    assert '--hide-llm-details --no-hide-llm-details' in text or '--no-hide-llm-details' in text
