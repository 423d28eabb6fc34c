"""``xdit-dualparal plan``: which degrees for a number of GPUs, how long, and how much memory.

Knows: the flags and what is printed. Must not know: how a time or a memory is computed.
"""

import json

from ..launch.errors import refuse
from ..models.checkpoint_files import Weights
from ..output.files import reason_of, write_whole
from ..plan.actions import FORWARD
from ..plan.device import device_named
from ..plan.recorded import compare, read_trace
from ..plan.timeline import draw_timeline
from .checks import check_texts
from .experts import PATHS, check_given_weights, files_of_experts
from .flags import command_settings, make_parser, value_of
from .images import with_image_size
from .loras import check_loras
from .memory import in_words, readable
from .memory_check import RESERVE
from .mixes import Gpus
from .plan_flags import parse_plan
from .planning import simulated, ways_of
from .prompts import prompts_of
from .registry import at_path, model_class

_MOST_REASONS = 8  # that are printed
_COLUMNS = ("", "seconds", "first frames", "stages wait", "memory", "sent to the next stage", "exchanged in a stage", "over the network", "from and to the host")


def main(argv):
    """Runs the command ``argv``. Ends with exit code 2, and one line, when it cannot."""
    flags, launch = parse_plan(argv)
    try:
        args, launch = _launch_flags(launch)
        model = _model(args)
        launch = [*launch, *_files_to_give(args, model)]
        if flags.calibrate:
            from .calibration import calibrate

            calibrate(flags.calibrate, args, model)
            return
        recorded = read_trace(flags.compare) if flags.compare else None
        gpus = _gpus(flags)
        ways, others = ways_of(args, model, gpus, launch)
        if not ways:
            raise ValueError(_nothing_works(flags, gpus, others))
        shown = _drawn(ways, recorded)
        timeline = _timeline(flags, args, model, gpus, shown, recorded)
        print(_text(flags, args, model, gpus, ways, others))
        if flags.json:
            _write_json(flags, gpus, ways, others)
        _show_timeline(flags, shown, timeline, recorded)
    except OSError as error:
        refuse(f"{error.filename}: {reason_of(error)}" if error.filename else reason_of(error))
    except (ValueError, RuntimeError) as error:  # of torch and gloo: what --calibrate cannot measure
        if isinstance(error, RuntimeError) and not flags.calibrate:
            raise
        refuse(" ".join(str(error).split()))


def _gpus(flags):
    """The Gpus; where they are several machines' the profile says of which network."""
    device = device_named(flags.gpu)
    is_one = flags.num_gpus <= flags.gpus_per_node
    return Gpus(flags.num_gpus, device if is_one else device.with_network(flags.network_gbps), flags.gpus_per_node)


def _launch_flags(launch):
    """(the parsed flags, as they are typed), with a prompt: a run's time does not depend on what it says."""
    args = vars(make_parser().parse_args(launch))
    if args["prompt"] or args["dataset_path"]:
        return args, launch
    return args | dict(prompt=["..."]), [*launch, "--prompt", "..."]


def _files_to_give(args, model):
    """Flags of the files that a run needs, images and distilled weights, with a place for each: its time does not depend on what is in them."""
    wanted = {"input_images": "IMAGE"} if model.family.facts.conditioned else {}
    wanted |= {"dualparal_last_image": "IMAGE"} if model.needs_last_image else {}
    wanted |= dict.fromkeys(PATHS.values(), "FILE") if model.needs_distilled else {}
    return [word for name, place in wanted.items() if not args[name] for word in (f"--{name}", place)]


def _model(args):
    """The class of the model. Raises ValueError for one that is not known, for weights and LoRAs that cannot be used, as the launcher does, and for a
    video without end."""
    check_texts(args)
    model = model_class(args["model"], args["dualparal_degree"] or 1)
    check_given_weights(args, model)
    files = files_of_experts(args)
    if args["model_path"] is not None:
        model = at_path(args["model"], model, args["model_path"], files)
    model = with_image_size(args, model, is_planned=True)
    check_loras(model, command_settings(args), Weights(model.settings.model_name, files))
    if value_of(args, model, "num_frames") == 0:
        raise ValueError("--num_frames is 0, for a video without end, which takes for ever: give a number of frames")
    return model


def _nothing_works(flags, gpus, others):
    reasons = {mix.why_not: mix for mix in others}
    if len(reasons) == 1 and not others[0].memory:
        return others[0].why_not  # no degrees would mend it
    least = min((mix for mix in others if mix.memory), key=lambda mix: mix.memory.total, default=None)
    shown = (least or next(iter(reasons.values()))) if others else None
    if shown is None:
        return f"no degrees that are given make {flags.num_gpus} GPUs: leave one out, or give another --num_gpus"
    return f"nothing runs on {flags.num_gpus} x {gpus.device.name}; nearest is {shown}: {shown.why_not}"


def _text(flags, args, model, gpus, ways, others):
    size = "x".join(str(value_of(args, model, name)) for name in ("height", "width", "num_frames"))
    machines = f" in {gpus.nodes} machines" if gpus.nodes > 1 else ""
    steps, videos = value_of(args, model, "num_inference_steps"), len(prompts_of(args))
    lines = [f"{args['model']}, {size} (height, width, frames), {steps} steps, {videos} video{'s' * (videos > 1)}, {flags.num_gpus} x {gpus.device.name}{machines}"]
    lines += _table(_without_empty_columns([_COLUMNS, *map(_row, ways[:flags.show])]))
    if len(ways) > flags.show:
        lines.append(f"and {len(ways) - flags.show} slower ones (--show N, --json FILE)")
    lines += [f"not {mix}: {mix.why_not}" for mix in others[:_MOST_REASONS]]
    if len(others) > _MOST_REASONS:
        lines.append(f"and {len(others) - _MOST_REASONS} more that cannot be (--json FILE)")
    lines += ["without loading the weights and encoding the prompts; by arithmetic, of:", *(f"  {source}" for source in gpus.device.sources)]
    memory = ways[0].mix.memory
    needs = f", whose fullest GPU needs {in_words(memory)} and {readable(RESERVE)} for libraries" if memory else ""
    needs += f", and {readable(memory.host)} of the host's memory" if memory and memory.host else ""
    where = f"; on each machine with its own --node_rank, 0 to {gpus.nodes - 1}, and the first one's address" if gpus.nodes > 1 else ""
    return "\n".join([*lines, f"the fastest{needs}{where}:", f"  {ways[0].command}"])


def _row(way):
    price, memory = way.price, way.mix.memory_bytes
    sent = max(price.link_bytes.values(), default=0)
    return (
        str(way.mix), _seconds(price.seconds), _seconds(price.first_frames_s), f"{price.bubble:.1%}", readable(memory) if memory else "not known",
        readable(sent), readable(price.exchanged_bytes), _or_nothing(price.network_bytes), _or_nothing(price.host_bytes),
    )


def _seconds(seconds):
    return f"{seconds:.0f}" if seconds >= 1000 else f"{seconds:.4g}"


def _or_nothing(size):
    return readable(size) if size else ""


def _without_empty_columns(rows):
    """``rows``, of which the first one has the titles, without the columns in which nothing is said of any other."""
    said = [n == 0 or any(row[n] for row in rows[1:]) for n in range(len(rows[0]))]
    return [[text for text, is_said in zip(row, said) if is_said] for row in rows]


def _table(rows):
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def _write_json(flags, gpus, ways, others):
    refused = [dict(flags=mix.flags, why_not=mix.why_not, memory_bytes=mix.memory_bytes) for mix in others]
    content = dict(num_gpus=flags.num_gpus, gpus_per_node=min(flags.gpus_per_node, flags.num_gpus), device=gpus.device.as_json(), ways=[way.as_json() for way in ways], refused=refused)
    write_whole(flags.json, json.dumps(content, indent=1).encode() + b"\n")


def _drawn(ways, recorded):
    """The fastest; beside a recorded run of those with nothing but degrees added: it had what the command says."""
    as_it_is = [way for way in ways if way.mix.adds_degrees_only]
    return as_it_is[0] if recorded and as_it_is else ways[0]


def _timeline(flags, args, model, gpus, way, recorded):
    """The simulated Trace of ``way``, None where nobody asks for it. Raises ValueError where ``recorded`` is of another run."""
    if not (flags.gantt or recorded):
        return None
    trace = simulated(args | way.mix.flags, model, gpus)
    if not recorded:
        return trace
    stages, passes = len(recorded.stages), [_passes(one) for one in (recorded, trace)]
    if stages != len(trace.stages):
        raise ValueError(f"--compare {flags.compare} is of {stages} stages and compared with {way.mix}, the fastest: add the degrees of the recorded run, --dualparal_degree {stages} say")
    if passes[0] != passes[1]:
        raise ValueError(
            f"--compare {flags.compare} has {len(passes[0])} passes, and {len(passes[1])} are planned, or others: give the frames, steps and prompts of the recorded run"
        )
    return trace


def _passes(trace):
    return {span.action.one for row in trace.stages for span in row if span.action.kind == FORWARD}


def _show_timeline(flags, way, timeline, recorded):
    """Of ``way`` in a picture, and a recorded trace beside it, where that is asked for."""
    if recorded:
        print(compare(recorded, timeline).as_text())
    if flags.gantt:
        traces = {f"simulated, {way.mix}": timeline} | ({"recorded": recorded} if recorded else {})
        for path in draw_timeline(traces, flags.gantt, overwrite=flags.overwrite):
            print(path)
