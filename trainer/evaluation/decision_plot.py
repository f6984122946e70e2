"""The figure of a decision: the accuracies, their difference with its interval, and the guards."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainer.evaluation.gate import Comparison, Decision
from trainer.evaluation.guards import GuardVerdict

COLOURS = {
    GuardVerdict.PASSED: "tab:green",
    GuardVerdict.TRIPPED: "tab:red",
    GuardVerdict.NOT_JUDGED: "lightgrey",
    GuardVerdict.SWITCHED_OFF: "lightgrey",
}


def draw(decision: Decision) -> Figure:
    """Three panels; the middle one is empty where there was no champion to compare with."""
    figure = Figure(figsize=(14, 4.6), layout="constrained")
    verb = "promoted" if decision.promote else "refused"
    luck = "" if decision.p_value is None else f", luck alone: p = {decision.p_value:.2g}"
    data = f"{decision.photos} photos of {decision.bins} bins"
    figure.suptitle(f"{verb} by the policy {decision.policy.rule} on {data}{luck}")
    left, middle, right = figure.subplots(1, 3)
    _draw_accuracies(left, decision)
    if decision.comparison:
        _draw_differences(middle, decision, decision.comparison)
    else:
        middle.set_axis_off()
    _draw_guards(right, decision)
    return figure


def _draw_accuracies(axes: Axes, decision: Decision) -> None:
    """Photos that both models, one or neither counts right; without a comparison the two accuracies."""
    if decision.comparison is None:
        names = ["challenger", "no champion" if decision.first else "champion"]
        accuracies = [decision.challenger_accuracy, decision.champion_accuracy]
        axes.bar_label(axes.bar(names, accuracies, color=["tab:blue", "grey"]), fmt="{:.1%}")
        axes.set(title="accuracy", ylim=(0, 1))
        return
    votes = decision.comparison.votes
    names = ["both", "challenger\nalone", "champion\nalone", "neither"]
    numbers = [votes.both, votes.challenger_alone, votes.champion_alone, votes.neither]
    axes.bar_label(axes.bar(names, numbers, color=["lightgrey", "tab:blue", "tab:orange", "lightgrey"]))
    axes.set(title="who counts a photo right: the coloured bars decide", ylabel="test photos")


def _draw_differences(axes: Axes, decision: Decision, comparison: Comparison) -> None:
    """The difference in accuracy, in points: over all photos with its interval, and for each count."""
    accuracy, classes = comparison.accuracy, comparison.classes
    rows = ["all", *(f"count {result.name}" for result in classes)]
    points = [100 * accuracy.value, *(-100 * result.loss for result in classes)]
    axes.axvline(0, color="black", linewidth=1)
    axes.scatter(points, rows, color=["tab:blue", *["grey"] * len(classes)], zorder=3)
    axes.plot([100 * accuracy.low, 100 * accuracy.high], ["all", "all"], color="tab:blue", label="95 % interval")
    if decision.policy.max_class_loss is not None:
        limit = -100 * decision.policy.max_class_loss
        axes.axvline(limit, color="tab:red", linestyle=":", label="most that a count may lose")
    axes.set(title="accuracy, challenger minus champion", xlabel="points")
    axes.invert_yaxis()
    axes.legend()


def _draw_guards(axes: Axes, decision: Decision) -> None:
    """Each guard's value as a share of its limit; beyond 1 it trips, unless luck explains it."""
    guards = decision.guards[::-1]
    shares = [
        min(max(guard.value / guard.limit, -0.5), 2.5) if guard.value is not None and guard.limit else 0.0
        for guard in guards
    ]
    axes.barh([guard.name for guard in guards], shares, color=[COLOURS[guard.verdict] for guard in guards])
    axes.axvline(1, color="tab:red", linestyle=":")
    for row, guard in enumerate(guards):
        label = guard.verdict + ("" if guard.p_value is None else f", p = {guard.p_value:.2g}")
        axes.annotate(label, (0, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set(title="guards: loss as a share of its limit", xlim=(-0.6, 2.6))
