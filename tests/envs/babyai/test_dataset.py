"Demonstrations in files: what is written, read back, sampled, and refused."

import copy
import json
import re
from collections import Counter

import pytest

from agentkit.core.errors import AgentkitError
from agentkit.core.types import Observation, State, Task
from agentkit.data.rows import check_row, split_by_task
from agentkit.envs.babyai import dataset
from agentkit.envs.babyai.dataset import (
    ENCODINGS,
    LEVELS,
    Demo,
    balanced,
    category_counts,
    collect,
    demonstrate,
    main,
    read_dataset,
    read_demos,
    split_demos,
    split_pairs,
    step_rows,
    steps_of,
)
from agentkit.envs.babyai.environment import BabyAI
from agentkit.envs.babyai.expert import SUBGOALS
from agentkit.envs.babyai.texts import from_ascii, from_tuples
from agentkit.envs.babyai.world import ACTIONS, World

SMALL = dict(env_ids=('GoToObj', 'OpenDoor'), seeds=(42, 123), progress=False)


@pytest.fixture(scope='module')
def nine(tmp_path_factory):
    "Nine levels with two seeds."
    return collect(seeds=(42, 123), output_dir=tmp_path_factory.mktemp('nine'), progress=False)


@pytest.fixture(scope='module')
def data(nine):
    return read_dataset(nine)


@pytest.fixture
def record(nine):
    "The first record of a file, to be damaged."
    return copy.deepcopy(json.loads((nine / 'test.json').read_bytes())[0])


def written(folder, *records):
    path = folder / 'records.json'
    path.write_text(json.dumps(records))
    return path


def test_all_of_the_nine_levels_are_won(nine, data):
    assert len(data.demos) == 18 and all(d.steps[-1].reward > 0 and d.steps[-1].done for d in data.demos)
    assert 'won: 18/18' in (nine / 'stats.txt').read_text()
    assert {d.env_id for d in data.demos} == {f'BabyAI-{name}-v0' for name in LEVELS}


def test_the_folder_and_its_records_have_the_known_names(nine, record):
    assert re.fullmatch(r'dataset_9env_2seed_1episodes_v1_\d{4}_\d{4}', nine.name)
    assert {p.name for p in nine.iterdir()} == {'train.json', 'test.json', 'stats.txt'}
    assert [p.name for p in nine.parent.glob('[!.]*')] == [nine.name]
    assert {'env_id', 'seed', 'episode_seed', 'timestamp', 'episodes'} <= record.keys()
    step = record['episodes'][0]['observations'][0]
    assert [*step] == 'step observation action subgoal reward done info encoded_observations'.split()
    assert [*step['encoded_observations']] == ['natural', 'ascii', 'tuples', 'relative']


def test_the_stored_actions_lead_to_the_stored_observations_and_rewards(data):
    for demo in data.demos:
        world = World(demo.env_id, demo.episode_seed, full=True)
        for step in demo.steps:
            assert step.observation == world.text() and not world.ended
            world.act(ACTIONS[step.action])
            assert (step.reward, step.done) == (world.reward, world.ended)
        assert world.won


def test_every_encoding_tells_the_observation_of_its_step(data):
    for step in steps_of(data.test)[::5]:
        assert from_ascii(step.text('ascii')) == from_tuples(step.text('tuples')) == step.sight
        assert all(step.text(name) == tell(step.sight) for name, tell in ENCODINGS.items())


def test_action_and_subgoal_are_what_the_advisor_says_of_this_very_observation(data):
    demo = next(d for d in data.demos if 'PutNext' in d.env_id)
    env = BabyAI(full=True, done=True, advisor='bot')
    env.reset(Task('t', 'babyai', data=dict(level=demo.env_id, seed=demo.episode_seed)))
    for step in demo.steps:
        hint = env.expert()
        assert (ACTIONS[step.action], step.subgoal) == (hint.action, hint.subgoal)
        env.step(hint.action)
    done = {s.action: s.subgoal for s in steps_of(data.demos)}
    assert (done[ACTIONS.index('pickup')], done[ACTIONS.index('drop')]) == ('Pickup', 'Drop')


@pytest.mark.parametrize('source', ['bot', 'planner'])
def test_the_advisor_is_asked_once_a_step(source, monkeypatch):
    acted, kind = [], dataset.ADVISORS[source]
    original = kind.acted
    monkeypatch.setattr(
        kind, 'acted', lambda self, action, text='': acted.append(action) or original(self, action, text)
    )
    observations, why = demonstrate('BabyAI-OpenDoor-v0', 42, source)
    assert why == '' and acted == [ACTIONS[o['action']] for o in observations]


def test_no_pair_of_level_and_seed_is_on_both_sides(data):
    for some in (data, split_demos(data.demos, 0.5)):
        train, test = ({(d.env_id, d.seed) for d in side} for side in (some.train, some.test))
        assert train and test and not train & test
    assert len(split_demos(data.demos, 0.5).train) == 9


def test_the_split_is_drawn_by_seeds_within_levels():
    pairs = [(name, seed) for name in 'abc' for seed in range(10)]
    train = split_pairs(pairs, 0.8)
    assert Counter(name for name, _ in train) == dict(a=8, b=8, c=8) and train == split_pairs(pairs[::-1], 0.8)
    assert split_pairs(pairs, 0) == set() and split_pairs(pairs, 1) == {*pairs}
    learned = [{s for e, s in train if e == name} for name in 'abc']
    assert not learned[0] == learned[1] == learned[2]


def test_episodes_of_a_seed_stay_together(tmp_path):
    data = read_dataset(collect(**SMALL, episodes_per_seed=3, train_ratio=0.5, output_dir=tmp_path))
    assert sorted({d.episode_seed for d in data.demos}) == [42, 123, 1042, 1123, 2042, 2123]
    assert len(data.train) == len(data.test) == 6
    assert not {(d.env_id, d.seed) for d in data.train} & {(d.env_id, d.seed) for d in data.test}


def test_two_collections_are_equal_but_for_the_time(tmp_path):
    folders = [collect(**SMALL, output_dir=tmp_path) for _ in range(2)]
    texts = [re.sub(r'"timestamp": "[^"]*"', '', (f / 'train.json').read_text()) for f in folders]
    assert folders[0] != folders[1] and texts[0] == texts[1]


def test_without_encodings_the_files_are_small_and_say_the_same(tmp_path):
    large = collect(**SMALL, output_dir=tmp_path)
    small = collect(**SMALL, output_dir=tmp_path, encodings=False)
    assert (small / 'train.json').stat().st_size < (large / 'train.json').stat().st_size / 3
    texts = [[s.text('natural') for s in steps_of(read_dataset(f).demos)] for f in (large, small)]
    assert texts[0] == texts[1]


def test_a_partial_view_and_the_planner(tmp_path):
    data = read_dataset(collect(**SMALL, output_dir=tmp_path, full=False, hint_source='planner'))
    assert all((d.full, d.hint_source, d.replay().score) == (False, 'planner', 1.0) for d in data.demos)


def test_what_is_not_won_is_listed_and_left_out(tmp_path):
    folder = collect(('GoToObj', 'GoToSeq'), (42,), 0.5, max_steps_per_episode=40, output_dir=tmp_path, progress=False)
    stats, demos = (folder / 'stats.txt').read_text(), read_dataset(folder).demos
    assert 'won: 1/2' in stats and 'BabyAI-GoToSeq-v0 seed 42: not finished after 40 steps' in stats
    assert [d.env_id for d in demos] == ['BabyAI-GoToObj-v0']


def test_a_bot_that_goes_round_in_circles_is_a_reason():
    observations, why = demonstrate('BabyAI-UnlockToUnlock-v0', 4)
    assert 'RecursionError' in why and not any(o['reward'] for o in observations)


def test_a_failure_of_a_strict_level_is_no_success():
    results = [demonstrate('BabyAI-OpenDoorsOrderN4Debug-v0', seed) for seed in range(3)]
    ended = [why for observations, why in results if observations[-1]['done'] and not observations[-1]['reward']]
    assert ended and all(why.startswith('failed at step') for why in ended)


def test_nothing_that_was_won_is_an_error(tmp_path):
    with pytest.raises(AgentkitError, match='no episode was won: not finished after 1 steps'):
        collect(('GoToObj',), (42,), max_steps_per_episode=1, output_dir=tmp_path, progress=False)


def test_an_interrupted_collection_goes_on(tmp_path, monkeypatch):
    played, original = [], dataset.demonstrate

    def sometimes(env_id, episode_seed, **how):
        if len(played) == 3:
            raise KeyboardInterrupt
        played.append((env_id, episode_seed))
        return original(env_id, episode_seed, **how)

    monkeypatch.setattr(dataset, 'demonstrate', sometimes)
    with pytest.raises(KeyboardInterrupt):
        collect(**SMALL, output_dir=tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]
    played.append(None)
    folder = collect(**SMALL, output_dir=tmp_path)
    assert len(played) == 5 and len(read_dataset(folder).demos) == 4
    assert [p.name for p in tmp_path.glob('[!.]*')] == [folder.name]


def test_other_options_do_not_go_on_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, '_write', lambda *_: 1 / 0)
    for more in ({}, dict(hint_source='planner'), dict(full=False), dict(train_ratio=0.5)):
        with pytest.raises(ZeroDivisionError):
            collect(**SMALL, **more, output_dir=tmp_path)
    assert len([*tmp_path.glob('*[!k]')]) == 3  # another split needs no other episodes


OPTIONS = [
    (dict(env_ids=('GoToObbj',)), "unknown level 'GoToObbj'; did you mean 'GoToObj'"),
    (dict(env_ids='GoToObj'), 'env_ids is .* a list of names'),
    (dict(env_ids=()), 'env_ids is .* a list of names'),
    (dict(env_ids=('GoToObj', 'BabyAI-GoToObj-v0')), 'different levels'),
    (dict(seeds=42), 'seeds is 42, and not a list'),
    (dict(seeds=('42',)), 'list of whole numbers'),
    (dict(seeds=(-1,)), 'from 0'),
    (dict(seeds=(42, 1042), episodes_per_seed=2), 'seed 1042 would be collected 2 times'),
    (dict(seeds=(42, 42)), 'seed 42 would be collected 2 times'),
    (dict(train_ratio=1.5), 'train_ratio is 1.5, and not a share'),
    (dict(train_ratio='half'), 'train_ratio'),
    (dict(episodes_per_seed=0), 'episodes_per_seed is 0'),
    (dict(max_steps_per_episode=2.5), 'max_steps_per_episode is 2.5'),
    (dict(hint_source='oracle'), "hint_source is 'oracle', and not one of bot, planner"),
    (dict(full='yes'), "full is 'yes', and not true or false"),
    (dict(output_dir=None), 'output_dir is missing'),
]


@pytest.mark.parametrize(('options', 'message'), OPTIONS)
def test_wrong_options_are_one_line(options, message, tmp_path):
    with pytest.raises(AgentkitError, match=message) as e:
        collect(**{**SMALL, 'output_dir': tmp_path, **options})
    assert '\n' not in str(e.value) and not [*tmp_path.iterdir()]


def older(record, change):
    "The record as an older collector would have written it."
    for o in record['episodes'][0]['observations']:
        change(o)
    return record


def test_older_files_are_read(record, tmp_path):
    new = read_demos(written(tmp_path, record))

    def long_names(o):
        o['subgoal'] += '' if o['subgoal'] == 'done' else 'Subgoal'
        o['action'] = str(o['action'])
        del o['info'], o['encoded_observations']

    record.pop('hint_source'), record.pop('full')
    again = read_demos(written(tmp_path, older(record, long_names)))
    assert not any(s.encodings for s in steps_of(again))
    assert [(s.action, s.subgoal, s.text()) for s in steps_of(again)] == [
        (s.action, s.subgoal, s.text()) for s in steps_of(new)
    ]


def test_a_hint_is_an_action_or_a_subgoal(record, tmp_path):
    def hint(o):
        kind = ('action', 'subgoal', 'both', 'name')[o['step'] % 4]
        both = dict(action=o.pop('action'), subgoal=f'{o.pop("subgoal")}Subgoal')
        o['hint'] = dict(both, both=both, name=ACTIONS[both['action']])[kind]

    new = steps_of(read_demos(written(tmp_path, record)))
    for old, known in zip(steps_of(read_demos(written(tmp_path, older(record, hint)))), new):
        assert old.action == (None if old.step % 4 == 1 else known.action)
        assert old.subgoal == (known.subgoal if old.step % 4 in (1, 2) else 'none')
    with pytest.raises(AgentkitError, match='step 1 of .* has no action: use hint_type subgoal'):
        old = steps_of(read_demos(written(tmp_path, record)))[1]
        old.answer('action')


def test_numbers_of_subgoals_are_read(record, tmp_path):
    demos = read_demos(written(tmp_path, older(record, lambda o: o.update(subgoal=o['step'] % 8))))
    assert [s.subgoal for s in steps_of(demos)] == [SUBGOALS[k % 8] for k in range(len(steps_of(demos)))]


def test_an_observation_in_another_form_has_only_the_texts_that_are_there(record, tmp_path):
    def images(o):
        o.update(observation=dict(image=[[[1, 0, 0]]], direction=0), encoded_observations=dict(ascii='as it was'))
        del o['reward'], o['done']

    demo = read_demos(written(tmp_path, older(record, images)))[0]
    assert demo.steps[0].text('ascii') == 'as it was'
    with pytest.raises(AgentkitError, match='step 0 of BabyAI.* has no natural text'):
        demo.steps[0].text('natural')
    assert demo.replay().score == 1


def test_a_world_that_is_another_one_now_is_seen(data):
    demo = data.test[0]
    for other in (dict(episode_seed=demo.episode_seed + 1), dict(full=False)):
        with pytest.raises(AgentkitError, match='is another world now'):
            Demo(**{**vars(demo), **other}).replay()


def test_a_replay_has_the_hints_of_the_file(data):
    demo = data.test[0]
    t = demo.replay('test')
    assert (t.termination, t.score, t.task.split) == ('won', 1.0, 'test')
    assert [(s.action, s.hint.action, s.hint.subgoal) for s in t.steps] == [
        (s.answer(), s.answer(), s.subgoal) for s in demo.steps
    ]


DAMAGES = [
    (lambda r: r.pop('env_id'), 'record 0: env_id is missing'),
    (lambda r: r.update(seed='42'), "record 0: seed is '42', and not a whole number"),
    (lambda r: r.update(episode_seed=True), 'episode_seed is True'),
    (lambda r: r.update(episodes={}), r'record 0 \(BabyAI.* seed \d+\): episodes is {}, and not a list'),
    (lambda r: r.update(episodes=[7]), 'episode 0 is 7, and not an object'),
    (lambda r: r['episodes'][0].pop('observations'), 'episode 0: observations is missing'),
    (lambda r: r['episodes'][0]['observations'].insert(1, None), 'episode 0: step 1 is missing'),
    (lambda r: r['episodes'][0]['observations'][2].update(action=9), 'step 2: action is 9, and not 0 to 6'),
    (lambda r: r['episodes'][0]['observations'][2].update(action=True), 'step 2: action is True'),
    (lambda r: r['episodes'][0]['observations'][0].update(subgoal='Fly'), "step 0: subgoal is 'Fly', and not 0 to 7"),
    (lambda r: r['episodes'][0]['observations'][0].update(reward='much'), 'step 0: reward is .*not a number'),
    (lambda r: r['episodes'][0]['observations'][0].update(encoded_observations=[]), 'encoded_observations is'),
    (
        lambda r: [r['episodes'][0]['observations'][0].pop(k) for k in ('observation', 'encoded_observations')],
        'step 0: observation is missing',
    ),
    (
        lambda r: [r['episodes'][0]['observations'][0].pop(k) for k in ('action', 'subgoal')],
        'step 0: action, subgoal or hint is missing',
    ),
]


@pytest.mark.parametrize(('damage', 'message'), DAMAGES)
def test_a_wrong_structure_is_named_with_its_place(damage, message, record, tmp_path):
    damage(record)
    with pytest.raises(AgentkitError, match=message) as e:
        read_demos(written(tmp_path, record))
    assert 'records.json: record 0' in str(e.value) and '\n' not in str(e.value)


def test_missing_and_malformed_files_are_named(nine, tmp_path):
    with pytest.raises(AgentkitError, match='nowhere: no such folder'):
        read_dataset(tmp_path / 'nowhere')
    with pytest.raises(AgentkitError, match='train.json does not exist'):
        read_dataset(tmp_path)
    (tmp_path / 'train.json').write_text('[{"env_id": ')
    with pytest.raises(AgentkitError, match='train.json is not JSON'):
        read_dataset(tmp_path)
    (tmp_path / 'train.json').write_text('{}')
    with pytest.raises(AgentkitError, match='train.json is {}, and not a list of records'):
        read_dataset(tmp_path)
    for side in ('train', 'test'):
        (tmp_path / f'{side}.json').write_bytes((nine / 'test.json').read_bytes())
    with pytest.raises(AgentkitError, match='is in train.json and in test.json'):
        read_dataset(tmp_path)


@pytest.mark.parametrize('hint_type', ['action', 'subgoal'])
def test_the_table_of_categories_reproduces(data, hint_type):
    steps = steps_of(data.train)
    counts = category_counts(steps, hint_type)
    sample = balanced(steps, 10, 42, hint_type)
    assert category_counts(sample, hint_type) == {c: min(10, n) for c, n in counts.items()}
    assert any(n > 10 for n in counts.values()) and len({id(s) for s in sample}) == len(sample)
    again = balanced(copy.deepcopy(steps), 10, 42, hint_type)
    assert sample == again and sample != balanced(steps, 10, 43, hint_type)


@pytest.mark.parametrize('encoding', ENCODINGS)
@pytest.mark.parametrize('hint_type', ['action', 'subgoal'])
def test_a_row_is_the_prompt_of_the_view_and_the_hint(data, encoding, hint_type):
    steps = steps_of(data.test)[::9]
    rows = step_rows(steps, encoding, hint_type)
    for step, row in zip(steps, rows, strict=True):
        check_row(row)
        prompt, answer = row['messages']
        state = State(Task('t', 'babyai'), Observation(step.observation))
        assert [prompt] == BabyAI.views[encoding]().messages(state)
        assert answer['content'] == (ACTIONS[step.action] if hint_type == 'action' else step.subgoal)


def test_rows_are_divided_by_level_and_seed(data):
    train, held = split_by_task(step_rows(steps_of(data.demos)), 0.3)
    sides = [{r['provenance']['task'] for r in side} for side in (train, held)]
    assert all(sides) and not sides[0] & sides[1] and len(sides[0] | sides[1]) == 18


def test_unknown_names_and_numbers_of_samples(data):
    step = data.test[0].steps[0]
    with pytest.raises(AgentkitError, match="unknown encoding 'asci'; did you mean 'ascii'"):
        step.text('asci')
    with pytest.raises(AgentkitError, match="hint_type is 'goal', and not one of action, subgoal"):
        step.category('goal')
    with pytest.raises(AgentkitError, match='per_category is 0'):
        balanced([step], 0)


def test_the_command_takes_its_options_from_a_file_and_then_from_the_line(tmp_path, capsys):
    config = tmp_path / 'collect.yaml'
    config.write_text('env_ids: [GoToObj, OpenDoor]\nseeds: [1, 2, 3]\ntrain_ratio: 0.5\nfull: true\nprogress: true\n')
    line = f'collect --config {config} --seeds 5 6 --output-dir {tmp_path} --no-full --no-progress --no-encodings'
    assert main(line.split()) == 0
    out = capsys.readouterr().out
    data = read_dataset(out.strip().split('\n')[-1])
    assert {d.seed for d in data.demos} == {5, 6} and len(data.train) == len(data.test) == 2
    assert not any(d.full for d in data.demos) and 'won: 4/4' in out


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('episode_per_seed: 5', "unknown option 'episode_per_seed'; did you mean 'episodes_per_seed'"),
        ('seeds: 42', 'seeds is 42, and not a list of whole numbers'),
        ('full: sometimes', 'full is'),
        ('- 1', 'holds no options'),
        ('a: [', 'is not YAML'),
    ],
)
def test_a_wrong_file_of_options_is_one_line(content, message, tmp_path, capsys):
    config = tmp_path / 'collect.yaml'
    config.write_text(content)
    assert main(['collect', '--config', str(config), '--output-dir', str(tmp_path / 'out')]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1 and not (tmp_path / 'out').exists()


def test_a_wrong_command_is_one_line(tmp_path, capsys):
    for line in ('collect --seedz 1', 'collect --config nowhere.yaml', 'collect --hint-source oracle', 'colect'):
        assert main(line.split()) == 2
        assert capsys.readouterr().err.count('\n') == 1
    assert main(['collect', '--help']) == 0
    shown = capsys.readouterr().out
    assert all(
        f'--{name}' in shown for name in ('episodes-per-seed', 'no-full', 'no-progress', 'config', 'train-ratio')
    )
