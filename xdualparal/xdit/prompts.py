"""The prompts of a command.

Knows: the flags of prompts and the file of prompts. Must not know: how a prompt is encoded.
"""

from xfuser.core.utils.runner_utils import load_dataset_prompts


def as_list(prompts):
    """One prompt or a list of them as a list."""
    return prompts if isinstance(prompts, list) else [prompts]


def check_prompts(args):
    """Raises ValueError for numbers of prompts that do not fit each other."""
    prompts, negative = len(prompts_of(args)), len(as_list(args["negative_prompt"]))
    replicas = args["data_parallel_degree"]
    if negative not in (0, 1, prompts):
        raise ValueError(
            f"{negative} negative prompts are given and there are {prompts} prompts: give one for all, in quotes, or "
            "one for each"
        )
    if prompts < replicas:
        raise ValueError(
            f"--data_parallel_degree is {replicas} and there are {prompts} prompts: every replica needs one, give "
            f"{replicas} prompts or a degree of {prompts}"
        )


def prompts_of(args):
    """The prompts that a command makes videos of, in order. Raises ValueError for a file that cannot be read."""
    path = args["dataset_path"]
    if not path:
        return as_list(args["prompt"])
    try:
        return load_dataset_prompts(path)
    except OSError as error:
        raise ValueError(f"--dataset_path {path} cannot be read ({error.strerror}): give a csv file") from None
    except KeyError:
        raise ValueError(f"--dataset_path {path} has no column 'prompt': name the prompts' column so") from None
