"""The picture of a decision: the difference with its interval, what tells the two apart, and the guards."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainer.evaluation.gate import Comparison, Decision
from trainer.evaluation.guards import NOT_JUDGED, PASSED, SWITCHED_OFF, TRIPPED

COLOURS = {PASSED: "tab:green", TRIPPED: "tab:red", NOT_JUDGED: "lightgrey", SWITCHED_OFF: "lightgrey"}


def decision(made: Decision) -> Figure:
    """Three panels, two where there was no champion to compare with."""
    figure = Figure(figsize=(14, 4.6), layout="constrained")
    word = "promoted" if made.promote else "refused"
    luck = "" if made.p_value is None else f", luck alone: p = {made.p_value:.2g}"
    figure.suptitle(f"{word} by the policy {made.policy.rule} on {made.photos} photos of {made.bins} bins{luck}")
    left, middle, right = figure.subplots(1, 3)
    _accuracies(left, made)
    if made.comparison:
        _differences(middle, made, made.comparison)
    else:
        middle.set_axis_off()
    _guards(right, made)
    return figure


def _accuracies(axes: Axes, made: Decision) -> None:
    """Photos that both, one or none counts right; without a comparison the two accuracies."""
    if made.comparison is None:
        names = ["challenger", "no champion" if made.first else "champion"]
        bars = axes.bar(names, [made.challenger_accuracy, made.champion_accuracy], color=["tab:blue", "grey"])
        axes.bar_label(bars, fmt="{:.1%}")
        axes.set(title="accuracy", ylim=(0, 1))
        return
    votes = made.comparison.votes
    names = ["both", "challenger\nalone", "champion\nalone", "neither"]
    numbers = [votes.both, votes.challenger_alone, votes.champion_alone, votes.neither]
    axes.bar_label(axes.bar(names, numbers, color=["lightgrey", "tab:blue", "tab:orange", "lightgrey"]))
    axes.set(title="who counts a photo right: the coloured ones decide", ylabel="test photos")


def _differences(axes: Axes, made: Decision, compared: Comparison) -> None:
    """How many points more are right, over all with the interval, and of each count."""
    found = compared.accuracy
    rows = ["all", *(f"count {each.name}" for each in compared.classes)]
    points = [100 * found.value, *(-100 * each.loss for each in compared.classes)]
    axes.axvline(0, color="black", linewidth=1)
    axes.scatter(points, rows, color=["tab:blue", *["grey"] * len(compared.classes)], zorder=3)
    axes.plot([100 * found.low, 100 * found.high], ["all", "all"], color="tab:blue", label="95 % interval")
    if made.policy.max_class_loss is not None:
        axes.axvline(-100 * made.policy.max_class_loss, color="tab:red", linestyle=":", label="a count may lose")
    axes.set(title="accuracy, challenger minus champion", xlabel="points")
    axes.invert_yaxis()
    axes.legend()


def _guards(axes: Axes, made: Decision) -> None:
    """Each guard's value as a share of its limit; beyond 1 it trips, unless luck explains it."""
    checked = made.guards[::-1]
    shares = [
        min(max(each.value / each.limit, -0.5), 2.5) if each.value is not None and each.limit else 0.0
        for each in checked
    ]
    axes.barh([each.name for each in checked], shares, color=[COLOURS[each.verdict] for each in checked])
    axes.axvline(1, color="tab:red", linestyle=":")
    for row, each in enumerate(checked):
        luck = "" if each.p_value is None else f", p = {each.p_value:.2g}"
        axes.annotate(each.verdict + luck, (0, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set(title="guards: loss as a share of its limit", xlim=(-0.6, 2.6))
