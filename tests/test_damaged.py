"Files of the kit that somebody has edited or a disk has damaged: each is read or named in one line, never a traceback."

import copy
import json

import pytest
from toys import GAMES

from agentkit.agents.policy import Agent
from agentkit.agents.programs import Chance, Expert
from agentkit.agents.saving import load_agent, save_agent
from agentkit.core.errors import AgentkitError
from agentkit.core.store import write_json
from agentkit.data.formats import export, load_export
from agentkit.data.pairs import export_pairs, load_pairs
from agentkit.data.records import collect, from_trajectories, rate_records, read_ratings, read_records
from agentkit.data.rows import describe, read_rows, write_rows
from agentkit.envs.tasks import read_tasks
from agentkit.evals import evaluate, read_report
from agentkit.judges.base import success
from agentkit.judges.calibration import calibrate, read_calibration
from agentkit.judges.run import judge_all, read_verdicts
from agentkit.models.names import cost, price
from agentkit.models.store import fingerprint, gguf_of, identity, model_dir, write_card
from agentkit.research.sweeps import Cell, ended, plan_cells, read_plan
from agentkit.research.tracking import to_mlflow
from agentkit.rollouts import Runner, read_trajectories
from agentkit.training.openai import OpenAIProvider, training_price
from agentkit.tuning.gate import promote, read_promotion

ODD = (None, [], {}, 5, 'x', True, -1, [1], {'a': 1}, 1.5)
NO_JSON = ('', '{', '[]', '5', 'null', '"x"', '[[1]]', '{"a": 1}', '\0', '[' * 100_000, '{"a": NaN}')


def places(value, depth):
    "Where something stands in a value, as far down as this."
    held = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for name, inner in held if depth else ():
        yield (name,)
        yield from ((name, *at) for at in places(inner, depth - 1))


def damaged(value, depth):
    "The value as text with one thing gone or another, and texts that are nothing like it."
    for at in places(value, depth):
        for new in ('gone', *ODD):
            other = copy.deepcopy(value)
            *above, last = at
            holder = other
            for name in above:
                holder = holder[name]
            if new == 'gone':
                del holder[last]
            else:
                holder[last] = new
            yield json.dumps(other)
    yield from NO_JSON


def check(path, read, depth=2):
    "Every damage is read or named; what is there at first, and in the end, is read."
    good = path.read_text()
    read()
    named = 0
    for text in damaged(json.loads(good.partition('\n{')[0]), depth):
        path.write_text(text + '\n')
        try:
            read()
        except AgentkitError as e:
            assert '\n' not in str(e) and len(str(e)) < 1000
            named += 1
    assert named > len(NO_JSON) / 2, 'nothing is ever named'
    path.write_text(good)
    read()


@pytest.fixture(scope='module')
def played(tmp_path_factory):
    "Reports of two players, their episodes, and the journal of the first."
    folder = tmp_path_factory.mktemp('played')
    with Runner('corridor', folder, workers=1, progress=False) as run:
        tasks = run.tasks('train', 30)
        reports = [evaluate(p, tasks, run) for p in (Expert(), Chance())]
        journals = [run.journal(p) for p in (Expert(), Chance())]
    return reports, [t for j in journals for t in read_trajectories(j)[:3]], journals[0]


def test_reports_and_decisions(played, tmp_path):
    (a, b), *_ = played
    a.save(tmp_path)

    def read():
        str(read_report(tmp_path))

    check(tmp_path / 'report.json', read, depth=1)
    promote(a, b, tmp_path / 'gate')
    check(tmp_path / 'gate/decision.json', lambda: read_promotion(tmp_path / 'gate')._repr_markdown_())
    table = (tmp_path / 'episodes.csv').read_text()
    for old, new in (('steps', 'stairs'), ('termination', 'end'), (table, 'x'), (table, ''), (',1,', ',one,')):
        (tmp_path / 'episodes.csv').write_text(table.replace(old, new))
        with pytest.raises(AgentkitError, match='report.json, or the table beside it, is damaged|is not a table'):
            read()


def test_agents(tmp_path):
    path = tmp_path / 'agent.json'
    for agent in (Agent(None), Chance(3)):
        save_agent(agent, path, replace=True)
        check(path, lambda: load_agent(path).id, depth=3)
    save_agent(Agent(None), path, replace=True)
    first = {**json.loads(path.read_text()), 'version': 1}
    write_json(path, {**first, 'adapter': dict(name='conversation', options=dict(brief=True))})
    check(path, lambda: load_agent(path).id, depth=3)


def test_episodes_verdicts_and_calibrations(played, tmp_path):
    _, episodes, journal = played
    path = tmp_path / 'episodes.jsonl'
    path.write_text(journal.read_text().splitlines()[0] + '\n')
    check(path, lambda: [t.won for t in read_trajectories(path)])
    judge_all(success, episodes[:1], tmp_path / 'v.jsonl', progress=False)
    check(tmp_path / 'v.jsonl', lambda: [v._repr_markdown_() for v in read_verdicts(tmp_path / 'v.jsonl')])
    calibrate(success, episodes, lambda t: t.won, progress=False).save(tmp_path / 'c.json')
    check(tmp_path / 'c.json', lambda: str(read_calibration(tmp_path / 'c.json')), depth=1)


def test_rows_records_ratings_tasks_and_exports(played, tmp_path):
    path = tmp_path / 'x.jsonl'
    write_rows(path, GAMES[:1])
    check(path, lambda: describe(read_rows(path)), depth=3)
    records = from_trajectories(played[1][:1], Agent())
    collect(records, tmp_path / 'r.jsonl')
    check(tmp_path / 'r.jsonl', lambda: [r.row() for r in read_records(tmp_path / 'r.jsonl')])
    path.write_text(json.dumps(dict(record=records[0].id, rater='a', rating=4)) + '\n')
    check(path, lambda: rate_records(records, read_ratings(path)))
    path.write_text(json.dumps(dict(id='a', env='corridor', kind='walk', split='train', data=dict(doors=2))) + '\n')
    check(path, lambda: read_tasks(path, env='corridor'))
    rows = [r.row() for r in records]
    export(rows, tmp_path / 'e.jsonl', 'openai')
    check(tmp_path / 'e.jsonl.json', lambda: load_export(tmp_path / 'e.jsonl', 'openai'))
    pair = {k: [dict(role='assistant', content=k)] for k in ('chosen', 'rejected')}
    export_pairs([dict(prompt=[dict(role='user', content='?')], **pair)], tmp_path / 'p.jsonl')
    check(tmp_path / 'p.jsonl.json', lambda: load_pairs(tmp_path / 'p.jsonl'))


def test_prices(tmp_path, monkeypatch):
    monkeypatch.setenv('AGENTKIT_ROOT', str(tmp_path))
    path, own = write_json(tmp_path / 'prices.json', {'openai/a': dict(input=1, output=2, training=3)}), 'openai/a'
    check(path, lambda: (cost(own, 10, 0, 10), training_price(own)))
    assert price(own) == dict(input=1, cached=1, output=2) and training_price(own) == 3
    for row in (dict(input=True, output=1), dict(input=1), dict(training='x'), dict(input=1, output=float('inf'))):
        write_json(path, {own: row})
        for ask in (price, training_price):
            with pytest.raises(AgentkitError, match='the price of openai/a is'):
                ask(own)


def test_models(tmp_path):
    folder = tmp_path / 'm'
    folder.mkdir()
    for name, content in dict(weights='w', gguf='g').items():
        (folder / f'model.{dict(weights="safetensors").get(name, name)}').write_text(content)
    write_json(folder / 'config.json', dict(hidden_size=64, rope=dict(theta=1)))
    facts = dict(id='m', base='b', trained=True, steps=3, base_weights_sha256='0', losses=dict(first=2, last=1))

    def read():
        return model_dir(folder), identity(folder), fingerprint(folder), gguf_of(folder)

    write_card(folder, **facts)
    check(folder / 'card.json', read)
    check(folder / 'config.json', lambda: (write_card(folder, **facts), read()))


def test_a_record_of_a_job_at_a_provider(results):
    path = results / 'finetune/abc/finetune_job.json'
    record = dict(model='ft:a', base='a', status='succeeded', rows=3, rows_digest='r', config={}, job_id='j')
    write_json(path, dict(record, trained_tokens=5, seconds=1))

    def read():
        try:
            return OpenAIProvider('openai/a', None).card('openai/ft:a')
        except AgentkitError as e:
            if 'was not fine-tuned from this project' not in str(e):
                raise

    check(path, read, depth=1)


def test_what_a_sweep_reads(results, tmp_path, monkeypatch):
    monkeypatch.setenv('AGENTKIT_ROOT', str(tmp_path))
    source = [['x = 1'], ['from agentkit.research.sweeps import finish\n', "finish(out, [dict(phase='a', success=x)])"]]
    cells = [
        dict(cell_type='code', id=f'c{i}', metadata={}, outputs=[], execution_count=None, source=s)
        for i, s in enumerate(source)
    ]
    cells[0]['metadata'], cells[0]['source'] = dict(tags=['parameters']), ['x = 1\n', "out = ''"]
    write_json(tmp_path / 'n.ipynb', dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5))
    (tmp_path / 'plan.yaml').write_text('experiment: e\nnotebook: n.ipynb\ngrid: {x: [1, 2]}\n')

    def planned() -> list[Cell]:
        return plan_cells(read_plan(tmp_path / 'plan.yaml'))

    check(tmp_path / 'n.ipynb', planned, depth=3)
    cell = planned()[0]
    for name, content in dict(
        result=dict(
            format='agentkit-result', version=1, rows=[dict(phase='a')], timings=[], tables=dict(t=[dict(b=1)])
        ),
        status=dict(run=cell.run, status='ok', error='', notebook='', result='', code={'a.py': ''}),
        params=dict(x=1),
        stamp=dict(commit='c'),
    ).items():
        write_json(cell.folder / f'{name}.json', content)
    for name in ('result', 'status'):
        check(cell.folder / f'{name}.json', lambda: ended(cell))


@pytest.mark.slow
def test_what_mlflow_is_given(results, tmp_path):
    folder = results / 'e' / 'abc'
    whole = dict(rows=[dict(phase='a', success=1)], timings=[dict(phase='a', s=1)], tables=dict(t=[dict(b=1)]))
    for name, content in dict(result=whole, params=dict(x=1), stamp=dict(commit='c')).items():
        write_json(folder / f'{name}.json', content)
    for name in ('result', 'params', 'stamp'):
        check(folder / f'{name}.json', lambda: to_mlflow('e'), depth=1)
