"Training: rows of whole episodes beside one row a step, and TRL beside the kit's trainer."

import os

import dspy

from agentkit.agents.policy import Agent, ConversationAdapter, act_signature
from agentkit.agents.programs import Expert
from agentkit.agents.saving import student_agent
from agentkit.core.errors import need
from agentkit.core.settings import path_of
from agentkit.core.types import Task, Trajectory
from agentkit.data.rows import call_rows, keep, rows
from agentkit.envs.alfworld.environment import AlfWorld
from agentkit.rollouts import Runner
from agentkit.training.bases import make_nano
from agentkit.training.encoding import encode
from agentkit.training.trainer import TrainConfig, finetune, plan
from bench.compared import Compared


def chat_rows(t: Trajectory) -> list[dict]:
    "DSPy's rows: each step with everything before it in one message."
    adapter, signature = dspy.ChatAdapter(), act_signature(AlfWorld.instructions)
    asked = Agent().inputs
    return [
        adapter.format_finetune_data(signature, [], asked(t.state(i)), dict(action=s.action))
        for i, s in enumerate(t.steps)
    ]


def rows_of(demos: list[Trajectory]) -> dict[str, list[dict]]:
    "The same demonstrations in five forms."
    brief = rows(demos, student_agent(None))
    reader = Agent(None, AlfWorld.instructions, think=False, adapter=ConversationAdapter(show_actions=False))
    full = rows(demos, reader)
    return dict(
        plain=[r for t in demos for r in chat_rows(t)],
        full_steps=call_rows(full),
        full_episodes=full,
        brief_steps=call_rows(brief),
        brief_episodes=brief,
    )


def demonstrate(tasks: list[Task]) -> tuple[list[Trajectory], dict[str, list[dict]], str]:
    "The expert's wins, their rows, and an untrained nano that knows their words."
    with Runner('alfworld', progress=False) as run:
        demos = keep(run(Expert(), tasks))
    forms = rows_of(demos)
    return demos, forms, make_nano([r for form in forms.values() for r in form])


EPOCHS = 5  # of the trainings that take only a second or two


def train_trl(base: str, rows: list[dict], epochs: int) -> dict:
    "Seconds an epoch with TRL's defaults."
    trl, datasets, hf, torch = (
        need('trl', 'bench'),
        need('datasets', 'bench'),
        need('transformers', 'train'),
        need('torch', 'train'),
    )
    datasets.disable_progress_bars()
    models = path_of('data', 'models', base).parent
    config = trl.SFTConfig(
        output_dir=str(models / 'trl'),
        num_train_epochs=epochs,
        max_length=None,
        use_cpu=not torch.cuda.is_available(),
        save_strategy='no',
        report_to='none',
        disable_tqdm=True,
    )
    trainer = trl.SFTTrainer(
        str(models / base),
        config,
        train_dataset=datasets.Dataset.from_list([dict(messages=r['messages']) for r in rows]),
    )
    trainer.remove_callback(hf.PrinterCallback)
    done = trainer.train()
    return dict(
        rows=len(rows),
        steps=done.global_step // epochs,
        seconds=round(done.metrics['train_runtime'] / epochs, 3),
        dtype='bfloat16' if config.bf16 else 'float32',
    )


def train_ours(base: str, rows: list[dict], name: str, epochs: int = EPOCHS, **settings) -> dict:
    "Seconds an epoch with the kit's trainer."
    trained = finetune(
        base,
        rows,
        TrainConfig.of('nano', epochs=epochs, max_length=8192, **settings),
        out_id=f'bench-{name}',
        progress=False,
    )
    losses = trained.losses
    return dict(
        rows=len(rows),
        steps=len(losses) // epochs,
        seconds=round(losses['seconds'].sum() / epochs, 3),
        tokens=int(losses['tokens'].sum()) // epochs,
        dtype=trained.card['dtype'].removeprefix('torch.'),
    )


def padding(
    lengths: list[int],  # tokens of each row
    config: TrainConfig,
) -> float:
    "Computed tokens for each real one."
    batches = [[lengths[i] for i in b] for _, b in plan(lengths, config)]
    return round(sum(len(b) * max(b) for b in batches) / sum(map(sum, batches)), 3)


def speeds(base: str, rows: list[dict]) -> list[dict]:
    "Tokens a second with one thread and with all, in single and in half precision."
    torch, before, out = need('torch', 'train'), need('torch', 'train').get_num_threads(), []
    for threads in sorted({1, os.cpu_count()}):
        for dtype in ('float32', 'bfloat16'):
            torch.set_num_threads(threads)
            try:
                run = train_ours(base, rows, f'{threads}-{dtype}', dtype=dtype)
            finally:
                torch.set_num_threads(before)
            out.append(dict(threads=threads, dtype=dtype, tokens_a_second=round(run['tokens'] / run['seconds'])))
    return out


def count_tokens(base: str, rows: dict[str, list[dict]]) -> dict[str, list[int]]:
    "Tokens of each row, in each form."
    tokenizer = need('transformers', 'train').AutoTokenizer.from_pretrained(path_of('data', 'models', base))
    return {form: [len(encode(r, tokenizer, 8192).ids) for r in some] for form, some in rows.items()}


def bench_training(tasks: list[Task]) -> tuple[dict, dict]:
    "One epoch on the same demonstrations, in four ways."
    demos, rows, base = demonstrate(tasks)
    n, lengths = len(demos), count_tokens(base, rows)
    tokens = {form: sum(l) for form, l in lengths.items()}
    train_ours(base, rows['brief_episodes'][:2], 'warm-up')
    runs = dict(
        ours=train_ours(base, rows['brief_episodes'], 'episodes'),
        steps=train_ours(base, rows['brief_steps'], 'steps'),
        trl=train_trl(base, rows['brief_episodes'], EPOCHS),
        plain=dict(train_trl(base, rows['plain'], 1), tokens=tokens['plain']),
    )
    compared = dict(
        train_tokens_ratio=Compared(tokens['full_steps'], tokens['full_episodes'], 'tokens, same format', n),
        train_tokens_ratio_brief=Compared(tokens['brief_steps'], tokens['brief_episodes'], 'tokens, brief format', n),
        train_tokens_ratio_plain=Compared(
            tokens['plain'], tokens['brief_episodes'], "tokens, DSPy's rows beside ours", n
        ),
        train_seconds_ratio=Compared(
            runs['plain']['seconds'], runs['ours']['seconds'], 's an epoch, TRL beside ours', n
        ),
        train_seconds_ratio_steps=Compared(
            runs['steps']['seconds'], runs['ours']['seconds'], 's an epoch, both our trainer', n
        ),
        train_seconds_ratio_trainer=Compared(
            runs['trl']['seconds'], runs['ours']['seconds'], 's an epoch, both episode rows', n
        ),
    )
    waste = {
        form: padding(l, TrainConfig.of('nano', epochs=1)) for form, l in lengths.items() if form.startswith('brief')
    }
    return compared, dict(
        n=n,
        threads=need('torch', 'train').get_num_threads(),
        runs=runs,
        tokens=tokens,
        padding=waste,
        speeds=speeds(base, rows['brief_episodes']),
    )
