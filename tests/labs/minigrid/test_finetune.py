"Fine-tuning on recorded steps: real training, a teacher that needs a better prompt, files that say what happened."

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agentkit.agents.saving import load_agent
from agentkit.core.errors import AgentkitError, EpisodeError
from agentkit.core.store import read_json
from agentkit.core.types import State
from agentkit.data.rows import read_rows
from agentkit.envs.babyai.dataset import collect, read_dataset, steps_of
from agentkit.envs.babyai.steps import STEPS, Steps, step_tasks
from agentkit.envs.babyai.world import ACTIONS
from agentkit.envs.base import views_of
from agentkit.envs.find import find_env, list_tasks
from agentkit.labs.minigrid import finetune as module
from agentkit.labs.minigrid.evaluate import evaluate_model
from agentkit.labs.minigrid.finetune import FIELDS, check_recipe, finetune, full_name, main, sample_steps, taught
from agentkit.labs.minigrid.metric import PlanAssessor, always, score_steps
from agentkit.labs.minigrid.sources import ask, hint_agent, predictor
from agentkit.labs.minigrid.tester import HintTester
from agentkit.models import remote
from agentkit.models.find import make_lm
from agentkit.models.remote import RemoteLM
from agentkit.models.store import model_dir, read_card
from agentkit.rollouts import Runner
from agentkit.testing.models import response, scripted_lm
from agentkit.testing.openai_server import TRAINING, PracticeServer

pytestmark = pytest.mark.usefixtures('own_data', 'one_thread')
LEVELS, RULE = ('GoToObj', 'GoToLocal', 'PickupLoc'), 'Look before you walk.'
TINY = dict(offline=True, encoding_type='no_repeat', samples_per_category=5, eval_steps=5, progress=False)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return collect(LEVELS, tuple(range(8)), output_dir=tmp_path_factory.mktemp('collected'), progress=False)


@pytest.fixture(scope='module')
def made(folder, tmp_path_factory, own_data, one_thread):
    "A nano that has learned something."
    options = {**TINY, 'samples_per_category': 40, 'eval_steps': 20, 'train': dict(epochs=12)}
    return finetune(folder, **options, output_dir=tmp_path_factory.mktemp('made'))


def fine(folder, out, **options):
    return finetune(folder, **{**TINY, 'output_dir': out, 'train': dict(epochs=1), **options})


def written(out):
    return sorted(p.name for p in Path(out).glob('*'))


# --- the files ---


def test_the_names_and_the_fields_of_the_source(made):
    name = made.path.stem
    assert re.fullmatch(r'finetuned_nano_action_no_repeat_\d{8}_\d{6}', name)
    assert written(made.path.parent) == ['.work', name, f'{name}.json', f'{name}_info.json']
    info = read_json(made.path.with_name(f'{name}_info.json'))
    assert len(FIELDS) == 21 and set(FIELDS) <= info.keys() and info == json.loads(json.dumps(made.info))
    assert info['model_name'] == name and info['model_path'] == str(made.path)
    assert (info['teacher_model'], info['student_model'], info['assessor_model']) == ('expert', 'local/nano', 'bot')
    assert info['trainset_size'] + info['devset_size'] == info['total_training_examples'] == info['balanced_samples']
    assert info['seed'] == 42 and {'minigrid', 'gymnasium', 'dspy', 'torch', 'python'} <= info['versions'].keys()
    assert 'git_commit' in info and info['weights_changed'] is True and info['prompt_changed'] is False
    assert not list(made.path.parent.rglob('*.pkl'))


def test_the_weights_have_changed_when_the_file_says_so(made):
    card = read_card(model_dir(made.info['weights']))
    assert card['trained'] and card['weights_sha256'] != card['base_weights_sha256']
    assert made.agent.name == made.info['weights']


def test_the_student_has_learned(made):
    e = made.info['evaluation']
    assert e['n'] >= 12 and e['exact_matches'] > made.info['majority']['exact_matches']
    assert f'Exact matches: {e["exact_matches"]}/{e["n"]}' in str(made)


def test_what_was_learned_is_kept(made):
    rows = read_rows(made.path.with_suffix('') / 'rows.jsonl')
    assert len(rows) == made.info['rows'] and all(len(r['messages']) == 2 for r in rows)
    assert {r['provenance']['policy'] for r in rows} == {'expert'}


def test_a_second_one_of_the_same_second_has_a_name_of_its_own(folder, made, tmp_path, monkeypatch):
    class Clock(module.datetime):
        @classmethod
        def now(cls):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(module, 'datetime', Clock)
    first, second = fine(folder, tmp_path), fine(folder, tmp_path)
    assert first.path.stem == 'finetuned_nano_action_no_repeat_20260102_030405'
    assert second.path.stem == f'{first.path.stem}-2' == second.info['model_name']
    assert first.info['weights'] == second.info['weights'], 'the same rows and settings are the same model'


# --- the same answers everywhere ---


def test_the_loaded_agent_answers_alike_in_evaluator_hints_and_a_fresh_process(made, folder, tmp_path):
    demos = read_dataset(folder).test
    tasks = step_tasks(steps_of(demos), demos, 'no_repeat', 'action', 'test')
    evaluated = list(score_steps(load_agent(made.path), tasks).steps['predicted'])
    agent, hinted = hint_agent(made.path, 'action'), []
    for demo in demos:
        t = demo.replay()
        hinted += [ask(agent, t.state(k), 'action').action for k in range(len(t.steps))]
    assert len(set(evaluated)) > 2 and evaluated == hinted
    code = f"""
import json
from agentkit.agents.saving import load_agent
from agentkit.core.types import State
from agentkit.envs.babyai.dataset import read_dataset, steps_of
from agentkit.envs.babyai.steps import Steps, step_tasks
from agentkit.envs.base import views_of
if __name__ == '__main__':
    agent, demos = load_agent({str(made.path)!r}), read_dataset({str(folder)!r}).test
    tasks = step_tasks(steps_of(demos), demos, 'no_repeat', 'action', 'test')[:10]
    states = [State(t, Steps().reset(t), views=views_of(Steps)) for t in tasks]
    print(json.dumps([agent.act(s).action for s in states]))
"""
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out.splitlines()[-1]) == evaluated[:10]


@pytest.fixture(scope='module')
def answers(made, folder):
    "The agent in the file, a recorded episode, and what the evaluator gets for each of its steps."
    demo = max(read_dataset(folder).test, key=lambda d: len(d.steps))
    agent = hint_agent(made.path, 'action')
    return (
        agent,
        demo,
        list(score_steps(agent, step_tasks(demo.steps, [demo], 'no_repeat', 'action')).steps['predicted']),
    )


def test_the_tester_gives_the_same_hints(answers):
    agent, demo, evaluated = answers
    tester = HintTester(demo.env_id, 'action', 'agent', agent, seed=demo.episode_seed)
    for step in demo.steps:
        tester.do(step.answer())
    assert [i['hint_name'] for i in tester.interactions] == evaluated and len(evaluated) > 3


def test_the_wrapper_gives_the_same_hints(answers):
    wrapper = pytest.importorskip('agentkit.labs.minigrid.hints').HintWrapper
    import gymnasium

    agent, demo, evaluated = answers
    env = wrapper(gymnasium.make(demo.env_id), 'action', 1, 'agent', agent)
    observation, _ = env.reset(seed=demo.episode_seed)
    hints = [observation['hint']]
    for step in demo.steps[:-1]:
        hints.append(env.step(step.action)[0]['hint'])
    assert [ACTIONS[h] for h in hints] == evaluated


def test_the_agent_plays_as_it_answers(made, folder):
    "What the view shows in an episode is what it shows of the recorded step."
    demo = max(read_dataset(folder).test, key=lambda d: len(d.steps))
    t, agent = demo.replay(), load_agent(made.path)
    views = views_of(find_env('babyai'))
    played = [agent.act(replace_views(t.state(k), views)).action for k in range(len(t.steps))]
    tasks = step_tasks(demo.steps, [demo], 'no_repeat', 'action')
    asked = [agent.act(State(s, Steps().reset(s), views=views_of(Steps))).action for s in tasks]
    assert played == asked and len(played) > 3


def replace_views(state, views):
    return replace(state, views=views)


def test_the_evaluators_command_reads_the_file(folder, tmp_path):
    learned = fine(folder, tmp_path, encoding_type='tuples', hint_type='subgoal', samples_per_category=2)
    options = dict(hint_type='subgoal', encoding_type='tuples', testset_size=4, baselines=False)
    results = evaluate_model(str(folder), model_path=str(learned.path), output_dir=tmp_path / 'out', **options)
    demos = read_dataset(folder).test
    assert results['total_predictions'] == 4 and learned.path.stem in written(tmp_path / 'out')[0]
    state = demos[0].replay().state(0)
    assert ask(learned.agent, state, 'subgoal') == ask(load_agent(learned.path), state, 'subgoal')


@pytest.mark.parametrize('hint_type', ['action', 'subgoal'])
@pytest.mark.parametrize('encoding', ['ascii', 'natural', 'tuples', 'relative', 'seen', 'resolved'])
def test_the_prompt_of_a_row_is_the_prompt_of_a_question(encoding, hint_type, folder, tmp_path):
    from agentkit.data.rows import rows

    sample = sample_steps(folder, hint_type, encoding, 2, 3)
    lm = scripted_lm(['done'])
    agent = predictor(hint_type, encoding, lm)
    with Runner(STEPS, progress=False) as run:
        played = taught(module.Expert(), sample.train, run)
    for t, row in zip(played, rows(played, agent)):
        agent.act(State(t.task, t.first, views=views_of(Steps)))
        request = lm.script.asked[-1]
        asked = [m.parts[0].text for m in request.messages]
        assert asked == [m['content'] for m in row['messages'] if m['role'] == 'user']
        assert row['messages'][-1]['content'] == t.task.data['answer'] == t.steps[0].action


def test_nobody_plays_with_sub_goals(folder, tmp_path):
    learned = fine(folder, tmp_path, encoding_type='ascii', hint_type='subgoal', samples_per_category=2)
    assert learned.agent.adapter.view == 'ascii_subgoal' and learned.info['assessor_model'] == 'none'
    with Runner('babyai', progress=False) as run:
        with pytest.raises(AgentkitError, match="no view 'ascii_subgoal'"):
            run(learned.agent, list_tasks('babyai', 'test', 1))


# --- the sample ---


def test_no_level_and_seed_is_on_two_sides_and_the_test_file_is_not_touched(folder):
    sample, data = sample_steps(folder, samples_per_category=50, eval_steps=30, gate=True), read_dataset(folder)
    sides = [{(t.data['level'], t.data['seed']) for t in side} for side in (sample.train, sample.gate, sample.dev)]
    assert all(sides) and sum(map(len, sides)) == len(set.union(*sides))
    assert not {(d.env_id, d.seed) for d in data.test} & set.union(*sides)
    assert sample == sample_steps(folder, samples_per_category=50, eval_steps=30, gate=True)
    other = sample_steps(folder, samples_per_category=5, seed=1)
    assert [t.id for t in other.train] != [t.id for t in sample_steps(folder, samples_per_category=5).train]


def test_the_sample_is_balanced_and_says_so(folder):
    sample = sample_steps(folder, samples_per_category=3)
    assert {n for n, _ in sample.categories.values()} == {3} and len(sample.train) == 3 * len(sample.categories)
    assert "Category '0': sampled 3/" in str(sample)


def test_one_world_cannot_be_divided(tmp_path):
    few = collect(('GoToObj',), (1, 2), output_dir=tmp_path, train_ratio=0.5, progress=False)
    with pytest.raises(AgentkitError, match='train.json has 1 pairs of level and seed here, too few to divide'):
        finetune(few, **TINY, output_dir=tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


# --- a teacher that is a language model ---


class Teacher:
    "An engine that knows the answers, where its instructions have the rule or something is shown; it also proposes."

    own, address = True, ''

    def __init__(self, folder):
        demos = read_dataset(folder).demos
        self.right = {s.text('tuples'): s.answer() for s in steps_of(demos)}
        self.proposed = []

    def __deepcopy__(self, memo):
        return self

    def models(self, model):
        return ['llama-3.3-70b-versatile', 'llama3.1:70b']

    def complete(self, request):
        text, _, listed = request.messages[-1].text.rpartition('\n\nPossible actions:\n')
        system = request.system if isinstance(request.system, str) else ''.join(p.text for p in request.system or ())
        if text not in self.right:
            self.proposed.append(request)
            names = 'observations summary program_description module_description proposed_instruction'.split()
            return response(request, '\n\n'.join(f'[[ ## {n} ## ]]\n{RULE}' for n in names), 10)
        assert listed.split('\n') == [*'left right forward pickup drop toggle done'.split()]
        knows = RULE in system or len(request.messages) > 1
        return response(request, self.right[text] if knows else 'done', 10)


@pytest.fixture
def teacher(folder, monkeypatch):
    "Models of a server that need no server."
    engine = Teacher(folder)
    known = lambda name: RemoteLM(name, engine=engine) if name.startswith(('groq/', 'ollama_chat/')) else make_lm(name)
    monkeypatch.setattr(module, 'make_lm', known)
    return engine


LED = dict(offline=False, encoding_type='tuples', teacher_model='llama-3.3-70b-versatile', assessor_model='none')


def test_a_student_that_cannot_be_trained_gets_the_prompt_and_its_file_says_so(folder, teacher, tmp_path, capsys):
    made = fine(folder, tmp_path, **LED, eval_steps=8, progress=True)
    assert teacher.proposed and re.fullmatch(r'promptopt_llama3_1_70b_action_tuples_\d{8}_\d{6}', made.path.stem)
    info = made.info
    assert not info['weights_changed'] and info['prompt_changed'] and info['rows'] == 0
    assert (info['teacher_model'], info['student_model']) == (
        'groq/llama-3.3-70b-versatile',
        'ollama_chat/llama3.1:70b',
    )
    assert (info['teacher_groq'], info['student_groq']) == (True, False)
    assert info['evaluation']['exact'] == 1 and info['metric_type'] == 'exact'
    state = read_json(made.path)
    assert RULE in json.dumps(state['signature']) or state['demos']
    assert 'cannot be trained: it gets the prompt of the teacher' in capsys.readouterr().out
    assert 'the weights are those of before; the prompt is a new one' in str(made)


def test_a_student_learns_what_the_teacher_answers_with_the_prompt_of_the_teacher(folder, teacher, tmp_path):
    made = fine(folder, tmp_path, **LED, student_model='local/nano', samples_per_category=3)
    assert made.path.stem.startswith('finetuned_nano_') and made.info['prompt_changed']
    rows = read_rows(made.path.with_suffix('') / 'rows.jsonl')
    assert {r['provenance']['policy'] for r in rows} == {'groq/llama-3.3-70b-versatile'}
    prompt = made.agent.react.signature.instructions
    assert all(r['messages'][0] == dict(role='system', content=prompt) for r in rows)
    assert len(made.agent.react.demos) == sum(m['role'] == 'user' for m in rows[0]['messages']) - 1


def test_a_training_that_fails_keeps_the_prompt_that_was_paid_for(folder, teacher, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise AgentkitError('the disk is full')

    original = module.distill_from
    monkeypatch.setattr(module, 'distill_from', fail)
    with pytest.raises(AgentkitError, match='the disk is full; the teacher with its new prompt is in') as e:
        fine(folder, tmp_path, **LED, student_model='local/nano')
    path = re.search(r'is in (\S+program.json)', str(e.value))[1]
    state, proposed = read_json(path), len(teacher.proposed)
    assert (RULE in json.dumps(state['signature']) or state['demos']) and written(tmp_path) == ['.work']
    monkeypatch.setattr(module, 'distill_from', original)
    assert fine(folder, tmp_path, **LED, student_model='local/nano').info['weights_changed']
    assert len(teacher.proposed) == proposed, 'what was searched is not searched again'


def test_without_a_prompt_a_failure_leaves_nothing_that_looks_trained(folder, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise AgentkitError('the disk is full')

    monkeypatch.setattr(module, 'distill_from', fail)
    with pytest.raises(AgentkitError, match='^the disk is full$'):
        fine(folder, tmp_path)
    assert written(tmp_path) == ['.work']


def test_weights_that_are_those_of_before_are_not_called_finetuned(folder, tmp_path, monkeypatch):
    original = module.distill_from

    def idle(*args, **kwargs):
        d = original(*args, **kwargs)
        return replace(d, card={**d.card, 'weights_sha256': d.card['base_weights_sha256']})

    monkeypatch.setattr(module, 'distill_from', idle)
    made = fine(folder, tmp_path)
    assert made.path.stem.startswith('promptopt_') and made.info['weights_changed'] is False


def test_the_threshold_says_what_is_learned(folder):
    sample, demos = sample_steps(folder, samples_per_category=6), read_dataset(folder).train
    with Runner(STEPS, progress=False) as run:
        plain = taught(always('forward'), sample.train, run)
        judged = taught(always('forward'), sample.train, run, PlanAssessor(demos))
    assert {t.score for t in plain} == {0.0, 1.0} and [t for t in judged if t.score == 0.5]
    assert [t.score == 1 for t in plain] == [t.score == 1 for t in judged]


# --- a student at a provider ---


def test_a_provider_trains_and_no_address_is_written(folder, tmp_path, results, monkeypatch):
    monkeypatch.setattr(remote, 'FIRST', 0.01)
    monkeypatch.setenv('AGENTKIT_API_KEY', 'sk-planted-key-0123456789')
    with PracticeServer(0.2) as server:
        base = f'openai/{[*TRAINING][0]}'
        train = dict(epochs=1, max_dollars=5.0, poll=0.05)
        made = fine(folder, tmp_path, student_model=f'{base}@{server.url}', encoding_type='tuples', train=train)
        agent = load_agent(f'{made.path}@{server.url}')
        assert made.path.stem.startswith('finetuned_gpt_4o') and agent.name.startswith('openai/ft:')
        texts = [p.read_text() for p in tmp_path.rglob('*.json*')]
        assert texts and not any('127.0.0.1' in t or 'sk-planted' in t for t in texts)


# --- what goes wrong ---


def test_what_cannot_be_saved_is_known_by_its_metadata(folder, tmp_path, monkeypatch):
    def fail(agent, path):
        raise OSError(28, 'No space left on device', str(path))

    monkeypatch.setattr(module, 'save_agent', fail)
    with pytest.raises(AgentkitError, match='could not be saved .*No space left.*_info.json'):
        fine(folder, tmp_path)
    (path,) = tmp_path.glob('*.json')
    info = read_json(path)
    assert info['model_path'] is None and 'No space left' in info['error'] and info['weights'].startswith('local/nano-')


def test_what_was_interrupted_goes_on(folder, tmp_path, monkeypatch):
    original, asked = module.distill_from, []

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, 'distill_from', interrupted)
    with pytest.raises(KeyboardInterrupt):
        fine(folder, tmp_path)
    (kept,) = (p for p in (tmp_path / '.work').iterdir() if p.is_dir())
    monkeypatch.setattr(module, 'distill_from', original)
    monkeypatch.setattr(Steps, 'expert', lambda self: asked.append(self))
    made = fine(folder, tmp_path)
    assert made.path.exists() and not kept.exists() and not asked


WRONG = [
    (dict(encoding_type='asci'), "encoding_type 'asci' cannot be asked.*did you mean 'ascii'"),
    (dict(encoding_type='no_repeat', hint_type='subgoal'), "'no_repeat' cannot be asked for the subgoal"),
    (dict(hint_type='goal'), "hint_type is 'goal', and not one of action, subgoal"),
    (dict(samples_per_category=0), 'samples_per_category is 0, and not a whole number from 1'),
    (dict(samples_per_category='10'), "samples_per_category is '10', and not a whole number from 1"),
    (dict(max_bootstrapped_demos=-1), 'max_bootstrapped_demos is -1'),
    (dict(minibatch_size=0), 'minibatch_size is 0'),
    (dict(eval_steps=True), 'eval_steps is True'),
    (dict(teacher_groq='no'), "teacher_groq is 'no', and not true or false"),
    (dict(threshold=2), 'the threshold is 2: write a number from 0 to 1'),
    (dict(threshold='high'), "threshold is 'high', and not a number"),
    (dict(threshold=0.5, assessor_model='none'), 'nobody says what is reasonable'),
    (dict(hint_type='subgoal', encoding_type='ascii', assessor_model='bot'), 'bot judges actions only'),
    (dict(student_model=''), "student_model is '', and not a text"),
    (dict(student_model='expert'), 'ollama_chat/expert cannot be trained'),
    (dict(student_model='ollama_chat/llama3.1'), 'cannot be trained, and the expert has no prompt'),
    (dict(student_model='local/nana'), "no model 'nana'"),
    (dict(train=dict(epoch=3)), "unknown training settings: epoch; .*did you mean 'epochs'"),
    (dict(train=dict(epochs=0)), 'epochs is 0'),
    (dict(train=[3]), r'train is \[3\], and not settings with names'),
    (
        dict(teacher_model='groq/llama'),
        'teacher_model: groq: the environment variable GROQ_API_KEY.*--offline needs no',
    ),
    (dict(assessor_model='deepseek'), 'assessor_model: groq: .*GROQ_API_KEY.*bot and none need no key'),
    (dict(teacher_model='x', teacher_groq=False, student_model='local/nano'), 'ollama_chat/x'),
]


@pytest.mark.parametrize('options, why', WRONG, ids=[' '.join(map(str, o.values())) for o, _ in WRONG])
def test_what_is_wrong_is_named_before_anything_is_done(options, why, folder, tmp_path, monkeypatch):
    monkeypatch.delenv('GROQ_API_KEY', raising=False)
    with pytest.raises(AgentkitError, match=why) as e:
        fine(folder, tmp_path / 'out', **options)
    assert '\n' not in str(e.value) and not (tmp_path / 'out').exists()


def test_a_view_without_instructions_has_no_prompt_to_search(folder, teacher, tmp_path):
    with pytest.raises(AgentkitError, match='no_repeat shows no instructions, so no prompt can be searched'):
        fine(folder, tmp_path / 'out', **{**LED, 'encoding_type': 'no_repeat'})


@pytest.mark.parametrize('path', ['', '/nowhere'])
def test_a_data_set_that_is_not_there_is_named(path, tmp_path):
    with pytest.raises(AgentkitError, match='dataset_path is|/nowhere: no such folder'):
        finetune(path, **TINY, output_dir=tmp_path / 'out')


def test_an_option_that_nobody_knows_is_named():
    with pytest.raises(AgentkitError, match="unknown option 'hint'; did you mean 'hint_type'|unknown option 'hint'"):
        check_recipe(dict(dataset_path='x', hint='action'))


def test_a_student_that_does_not_answer_is_saved_as_not_measured(folder, tmp_path, monkeypatch):
    original = module.score_steps

    def silent(policy, *args):
        def fail(self, state):
            raise EpisodeError('no answer')

        monkeypatch.setattr(type(policy), 'act', fail)
        return original(policy, *args)

    monkeypatch.setattr(module, 'score_steps', silent)
    made = fine(folder, tmp_path)
    assert made.info['evaluation']['n'] == 0 and made.info['evaluation']['errors'] == made.info['devset_size']
    assert f'{made.info["devset_size"]} questions broke off: not measured' in str(made) and 'Exact' not in str(made)


# --- names and the command ---


def test_bare_names_get_their_provider_from_the_flag():
    assert full_name('llama3.1:70b', True) == 'groq/llama3.1:70b'
    assert full_name('meta-llama/llama-4', True) == 'groq/meta-llama/llama-4'
    assert full_name('llama3.1:70b', False) == 'ollama_chat/llama3.1:70b'
    assert full_name('openai/gpt-4o@http://127.0.0.1:1/v1', True) == 'openai/gpt-4o@http://127.0.0.1:1/v1'


def test_the_defaults_are_those_of_the_source():
    recipe = check_recipe(dict(dataset_path='x', teacher_groq=False, student_groq=True, assessor_groq=False))
    assert recipe['teacher_model'] == 'ollama_chat/llama-3.3-70b-versatile' and not recipe['teacher_groq']
    assert recipe['student_model'] == 'groq/llama3.1:70b' and recipe['student_groq']
    assert recipe['assessor_model'] == 'ollama_chat/deepseek-r1-distill-llama-70b'
    chosen = dict(hint_type='action', encoding_type='ascii', samples_per_category=10, max_bootstrapped_demos=1)
    chosen |= dict(minibatch_size=40, output_dir='saved_llm_models')
    assert {k: recipe[k] for k in chosen} == chosen


def test_offline_leaves_names_that_were_given():
    recipe = check_recipe(dict(dataset_path='x', offline=True, student_model='local/nano-1', assessor_model='planner'))
    assert [recipe[f'{r}_model'] for r in ('teacher', 'student', 'assessor')] == ['expert', 'local/nano-1', 'planner']


def test_the_command(folder, tmp_path, capsys):
    line = f'--dataset-path {folder} --offline --encoding-type no_repeat --samples-per-category 2 --eval-steps 2'
    assert main([*line.split(), '--train.epochs', '1', '--output-dir', str(tmp_path), '--no-progress']) == 0
    out = capsys.readouterr().out
    assert 'finetuned_nano_action_no_repeat_' in out and 'Exact matches:' in out


@pytest.mark.parametrize(
    'line, why',
    [
        ('', '--dataset-path is missing: a folder with train.json and test.json'),
        ('--dataset-path x --model-name y', '--model-name'),
        ('--dataset-path x --teacher-groq maybe', 'maybe'),
        ('--dataset-path x --hint-type goal', 'goal'),
        ('--dataset-path /nowhere --offline --no-teacher-groq --no-assessor-groq --no-student-groq', '/nowhere'),
        ('--dataset-path x --offline --train.epoch 3', 'x: no such folder'),
    ],
)
def test_a_wrong_command_is_one_line(line, why, capsys):
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert why in error and error.count('\n') == 1


def test_each_flag_can_be_switched_off():
    import inspect

    flags = [n for n, p in inspect.signature(finetune).parameters.items() if isinstance(p.default, bool)]
    assert flags == ['teacher_groq', 'student_groq', 'assessor_groq', 'offline', 'progress']
    off = ' '.join(f'--no-{n.replace("_", "-")}' for n in flags)
    assert main(f'--dataset-path /nowhere --teacher-model expert --student-model local/nano {off}'.split()) == 2
