"The ratios as bars, and as a table."

from agentkit.core.errors import AgentkitError
from bench.compared import read_summary, table


NAMES = dict(
    env_step_speedup='environment: a step',
    env_reopen_speedup='environment: a known game',
    env_open_speedup='environment: a new game',
    babyai_step_speedup='BabyAI: a step, in words',
    rollout_speedup='rollouts',
    rollout_speedup_same_env='rollouts, same environment',
    train_tokens_ratio='training: tokens, same format',
    train_tokens_ratio_brief='training: tokens, brief format',
    train_tokens_ratio_plain='training: tokens, all told',
    train_seconds_ratio='training: seconds, beside TRL',
    train_seconds_ratio_steps='training: seconds, rows alone',
    train_seconds_ratio_trainer='training: seconds, trainer alone',
)


def bench_figure(summary: dict | None = None):
    "The ratios as bars; default: those in `results/bench/summary.json`."
    shown = table(summary or read_summary()).iloc[::-1] if (summary or read_summary())['figures'] else []
    if not len(shown):
        raise AgentkitError('nothing has been measured yet: run `make bench`')
    import matplotlib.pyplot as plt
    import seaborn as sns

    sns.set_theme(style='whitegrid', font_scale=0.85)
    figure, axes = plt.subplots(figsize=(6.4, 0.8 + 0.36 * len(shown)), layout='constrained')
    plt.close(figure)  # shown by the caller, once
    bars = axes.barh(shown['ratio'].map(NAMES), shown['times'], color='#0173b2', height=0.6)
    axes.bar_label(bars, [f'{x:.3g}×' for x in shown['times']], padding=3, fontsize=8)
    axes.axvline(1, color='#949494', linewidth=1)
    axes.set(
        xscale='log',
        xlim=(0.8 * min(1, shown['times'].min()), 2.5 * max(1, shown['times'].max())),
        xlabel='cost of the usual way / cost of the kit',
    )
    axes.grid(False, axis='y')
    return figure
