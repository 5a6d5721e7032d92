"""What a person reads of an export: export.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def export_table(metrics: Mapping[str, Any]) -> str:
    """Return size, accuracy and latency of the exported file, before and after INT8, in Markdown.

    Of several labels, exact match (all labels of an image right) stands for accuracy.
    metrics: what the export stage writes as metrics.json. Numbers and words of ours alone: no name from outside.
    """
    lines = [
        "# Export",
        "",
        f"The file that scores is {metrics['precision']}: {_size(metrics['onnx_bytes'])}. "
        f"Its logits are the trained network's within {metrics['max_absolute_difference']:.1g} in fp32.",
    ]
    right, each = ("exact match", "label") if metrics.get("several") else ("accuracy", "class")
    pruned = metrics["pruned"]
    if pruned is not None:
        lines += [
            "",
            f"Pruned by {pruned['share']:g}: {pruned['parameters']:,} of {pruned['parameters_whole']:,} parameters, "
            f"{_size(pruned['bytes'])} of {_size(pruned['bytes_whole'])}; {100 * pruned['loss']:.2f} points of "
            f"{right} lost in all, {100 * pruned['worst_class_loss']:.2f} in the {each} that lost most.",
        ]
    int8 = metrics["int8"]
    if int8 is not None:
        lines += ["", _int8(int8, right, each)]
    lines += ["", *_figures(metrics, right)]
    if metrics["latency"] is not None:
        lines += ["", *_latency(metrics["latency"])]
    return "\n".join(lines) + "\n"


def _int8(int8: Mapping[str, Any], right: str, each: str) -> str:
    if "bytes" not in int8:
        return f"INT8 was tried and is not used: {int8['refused_for']}; metrics.json says why."
    faster = f", {int8['speedup']:.2f} times as fast at batch {int8['speedup_batch']}" if int8["speedup"] else ""
    told = (
        f"{_size(int8['bytes'])}, {int8['size_ratio']:.2f} of fp32{faster}; {100 * int8['loss']:.2f} points of "
        f"{right} lost in all, {100 * int8['worst_class_loss']:.2f} in the {each} that lost most."
    )
    if int8["used"]:
        return f"INT8 is used: {told}"
    return f"INT8 was tried and is not used ({int8['refused_for']}): {told}"


def _figures(metrics: Mapping[str, Any], right: str) -> list[str]:
    names = {"trained": "trained network", "here": "exported file", "elsewhere": "exported file, new process"}
    head = f"| on validation images | images | {right} | log-loss | calibration error |"
    lines = [head, "|---|---:|---:|---:|---:|"]
    for key, name in names.items():
        one = metrics["figures"][key]
        lines.append(
            f"| {name} | {one['images']} | {100 * one['accuracy']:.2f} % | {one['log_loss']:.5f} | {one['ece']:.4f} |"
        )
    return lines


def _latency(latency: Mapping[str, Any]) -> list[str]:
    lines = [
        f"Latency on this machine, {latency['device']}, {latency['threads']} threads, from pixels to probabilities:",
        "",
        "| precision | batch | p50 | p95 | images a second | runs |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for precision, rows in latency["files"].items():
        lines += [
            f"| {precision} | {row['batch']} | {row['p50_ms']:.2f} ms | {row['p95_ms']:.2f} ms "
            f"| {row['images_per_second']:.0f} | {row['runs']} |"
            for row in rows
        ]
    return lines


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
