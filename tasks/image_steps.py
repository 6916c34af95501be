"""The steps of image matching as Prefect tasks, in the order of the recipe `copytrace.images`."""

from __future__ import annotations

from copytrace.images import check_images
from copytrace.index.added_thumbnails import add_thumbnails
from copytrace.index.image_index import describe_images, find_overlays, plan_images
from copytrace.index.image_segments import index_segments
from copytrace.index.media_index import finish_index
from copytrace.matching.evidence import score_pairs
from copytrace.matching.merge import merge_matches
from copytrace.report.images import report_images
from copytrace.search.image_candidates import recall_images
from copytrace.summary import summarize_images
from tasks.artifacts import link_image_report, log_plan, show_image_summary
from tasks.limits import cpu_slots, descriptor_slots
from tasks.step_task import StepTask, tasks_by_step

IMAGE_STEPS = tasks_by_step(
    StepTask(check_images, "check"),
    StepTask(plan_images, "ingest {role}", show=log_plan),
    StepTask(find_overlays, "preprocess {root.name} {shard:05}", cpu_slots),
    StepTask(describe_images, "describe {root.name} {shard:05}", descriptor_slots),
    StepTask(add_thumbnails, "add-thumbnails {root.name} {shard:05}", cpu_slots),
    StepTask(finish_index, "finish {root.name}"),
    StepTask(index_segments, "index-segments {root.name}"),
    StepTask(recall_images, "recall {branch} {shard:05}", cpu_slots),
    StepTask(score_pairs, "score {shard:05}", cpu_slots),
    StepTask(merge_matches, "merge"),
    StepTask(report_images, "report", cpu_slots, show=link_image_report),
    StepTask(summarize_images, "summarize", show=show_image_summary),
)
