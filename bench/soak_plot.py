"""The soak's picture: `python bench/soak_plot.py RUN.json PICTURE`. It needs matplotlib, and nothing of the sidecar."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams["svg.fonttype"] = "none"
matplotlib.rcParams["svg.hashsalt"] = "soak"
import matplotlib.pyplot as plt
from matplotlib.patches import Patch

COLOURS = {
    "the store": "#7a5195",
    "vendor": "#c98a2b",
    "upstream": "#2b6cb0",
    "captcha": "#4a7d3a",
    "worker": "#b03a2e",
    "reload": "#8a8a8a",
}


def colour(name):
    return next((value for key, value in COLOURS.items() if key in name), "#8a8a8a")


def plot(source, target):
    found = json.loads(Path(source).read_text())
    samples = found["samples"][:: max(1, len(found["samples"]) // 360)]
    minutes = [one["at"] / 60 for one in samples]
    figure, axes = plt.subplots(5, 1, figsize=(9, 10), sharex=True, height_ratios=[1.4, 1.4, 1, 1, 0.8])
    memory, times, failed, messages, sockets = axes
    for role, shade in (("worker 1", "#b03a2e"), ("worker 2", "#e0a59e"), ("parent", "#2b6cb0"), ("maker", "#8a8a8a")):
        name = {"worker 1": "the older worker", "worker 2": "the younger worker", "maker": "what makes workers"}.get(
            role, role
        )
        line = [one["processes"].get(role, {}).get("own") for one in samples]
        memory.plot(minutes, [float("nan") if y is None else y for y in line], color=shade, lw=1.3, label=name)
        line = [one["processes"].get(role, {}).get("fds") for one in samples]
        sockets.plot(minutes, [float("nan") if y is None else y for y in line], color=shade, lw=1.0)
    memory.set_ylabel("memory of its own, MB")
    memory.set_ylim(0, 1.35 * memory.dataLim.y1)  # room for the legend
    for kind, shade in (("plain", "#8a8a8a"), ("send", "#b03a2e"), ("verify", "#2b6cb0"), ("refused", "#c98a2b")):
        for part, style, width in (("p50", "-", 1.2), ("p99", ":", 0.9)):
            line = [one["kinds"].get(kind, {}).get(part) for one in samples]
            line = [float("nan") if y is None else y for y in line]
            times.plot(minutes, line, style, color=shade, lw=width, label=f"{kind}, {part}")
        line = [one["kinds"].get(kind, {}).get("failed", 0) / 5 for one in samples]
        failed.plot(minutes, line, color=shade, lw=1.0, label=kind)
    times.set_yscale("log")
    times.set_ylim(top=50 * times.dataLim.y1)
    times.set_ylabel("answers, ms")
    failed.set_ylabel("failed a second")
    failed.set_ylim(0, 1.3 * max(1, failed.dataLim.y1))
    for name, shade in (("outbox", "#b03a2e"), ("later", "#c98a2b"), ("pending", "#2b6cb0")):
        line = [one.get("store", {}).get(name) for one in samples]
        label = {"outbox": "in the outbox", "later": "to come back", "pending": "leased"}[name]
        messages.plot(minutes, [float("nan") if y is None else y for y in line], color=shade, lw=1.0, label=label)
    messages.set_yscale("symlog", linthresh=10)
    messages.set_ylabel("messages")
    messages.set_ylim(top=30 * max(10, messages.dataLim.y1))
    sockets.set_ylabel("descriptors")
    sockets.set_xlabel("minutes")
    for one in axes:
        for shade in COLOURS.values():
            faults = [fault for fault in found["faults"] if colour(fault["name"]) == shade]
            spans = [(fault["begin"] / 60, max(fault["end"] - fault["begin"], 3) / 60) for fault in faults]
            one.broken_barh(spans, (0, 1), transform=one.get_xaxis_transform(), color=shade, alpha=0.18, lw=0)
        one.grid(alpha=0.25)
        one.spines[["top", "right"]].set_visible(False)
        if one is not sockets:
            one.legend(frameon=False, fontsize=7, ncols=4, loc="upper left")
    names = {
        "the store": "the store",
        "vendor": "a vendor",
        "upstream": "upstream",
        "captcha": "the captcha's verifier",
        "worker": "a worker",
        "reload": "reloads",
    }
    figure.legend(handles=[Patch(color=shade, alpha=0.3, label=names[key]) for key, shade in COLOURS.items()],
                  title="failing", title_fontsize=8, frameon=False, fontsize=8, ncols=6, loc="upper center")  # fmt: skip
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    figure.savefig(target, dpi=80, metadata={"Date": None} if target.endswith(".svg") else None)


if __name__ == "__main__":
    plot(*sys.argv[1:])
