"""The steps of video matching as Prefect tasks, in the order of the recipe `copytrace.videos`."""

from __future__ import annotations

from copytrace.alignment.align import align_pairs, merge_segments
from copytrace.alignment.exact_ends import find_exact_ends
from copytrace.alignment.segment_verification import verify_segments
from copytrace.alignment.signature_comparison import compare_signatures
from copytrace.index.media_index import finish_index
from copytrace.index.video_index import describe_videos, plan_videos
from copytrace.index.video_segments import index_segments
from copytrace.report.videos import report_videos
from copytrace.search.unedited_queries import detect_editing
from copytrace.search.video_candidates import search_frames
from copytrace.summary import summarize_videos
from copytrace.videos import check_videos
from tasks.artifacts import link_video_report, log_plan, show_video_summary
from tasks.limits import aligner_slots, cpu_slots, descriptor_slots
from tasks.step_task import StepTask, tasks_by_step

VIDEO_STEPS = tasks_by_step(
    StepTask(check_videos, "check"),
    StepTask(plan_videos, "ingest {role}", show=log_plan),
    StepTask(describe_videos, "describe {root.name} {shard:05}", descriptor_slots),
    StepTask(finish_index, "finish {root.name}"),
    StepTask(index_segments, "index-segments {root.name}"),
    StepTask(detect_editing, "detect-editing {shard:05}", descriptor_slots),
    StepTask(search_frames, "search {shard:05}", cpu_slots),
    StepTask(align_pairs, "align {shard:05}", aligner_slots),
    StepTask(verify_segments, "verify {shard:05}", cpu_slots),
    StepTask(find_exact_ends, "find-ends {shard:05}", descriptor_slots),
    StepTask(compare_signatures, "compare-signatures {shard:05}", cpu_slots),
    StepTask(merge_segments, "merge"),
    StepTask(report_videos, "report", cpu_slots, show=link_video_report),
    StepTask(summarize_videos, "summarize", show=show_video_summary),
)
