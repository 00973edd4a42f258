"""Translates flags of other libraries, or explains the segjax equivalent."""

from collections.abc import Sequence

# Flags with a direct equivalent, which takes the same value.
_SAME = {
    "--batch-size": "--data.batch-size",
    "--batch": "--data.batch-size",
    "--bs": "--data.batch-size",
    "--lr": "--optim.learning-rate",
    "--lr0": "--optim.learning-rate",
    "--learning-rate": "--optim.learning-rate",
    "--weight-decay": "--optim.weight-decay",
    "--wd": "--optim.weight-decay",
    "--data": "--data.root",
    "--data-dir": "--data.root",
    "--data-path": "--data.root",
    "--dataset-dir": "--data.root",
    "--root": "--data.root",
    "--work-dir": "--workdir",
    "--output-dir": "--workdir",
    "--output": "--workdir",
    "--out": "--workdir",
    "--weights": "--init-from",
    "--pretrained": "--init-from",
    "--load-from": "--init-from",
    "--workers": "--data.num-workers",
    "--num-workers": "--data.num-workers",
    "--max-steps": "--steps",
    "--iterations": "--steps",
    "--max-iter": "--steps",
    "--num-devices": "--num-devices",
    "--gpus": "--num-devices",
    "--num-gpus": "--num-devices",
}
# Flags without a direct equivalent, with advice on what to do instead.
_ANSWERS = {
    "--resume": "the same command with the same --workdir goes on by itself",
    "--resume-from": "the same command with the same --workdir goes on by itself",
    "--amp": "--compute-dtype=bfloat16 computes in half precision",
    "--fp16": "--compute-dtype=bfloat16 computes in half precision",
    "--half": "--compute-dtype=bfloat16 computes in half precision",
    "--bf16": "--compute-dtype=bfloat16 computes in half precision",
    "--num-classes": "the data decide the classes; leave it out",
    "--eval-only": "`segjax evaluate --checkpoint RUN` evaluates",
    "--name": "--workdir names the folder of a run",
    "--project": "--workdir names the folder of a run",
    "--cfg": "--config names a recipe or a file; fields are flags, such as --steps=1000",
    "--cfg-options": "fields are flags, such as --optim.learning-rate=0.01",
    "--opts": "fields are flags, such as --optim.learning-rate=0.01",
    "--config-file": "--config names a recipe or a file",
    "--save-period": "--checkpoint-every counts steps between checkpoints",
    "--val-interval": "--eval-every counts steps between evaluations",
    "--launcher": "all devices of the machine are used; --parallel and --num-devices choose",
}
_SIZES = ("--imgsz", "--img-size", "--image-size", "--img", "--resolution")


def understood(flags: Sequence[str]) -> list[str]:
    """Replaces flags of other libraries by config fields.

    Args:
      flags: flags as "--name=value" or "--name", "value"; `_` and `-` are equivalent.

    Returns:
      Flags of segjax. Unknown flags are left unchanged.

    Raises:
      ValueError: for flags without a direct equivalent; the message says what to do instead.
    """
    made: list[str] = []
    for flag in flags:
        name, equals, value = flag.partition("=")
        spelled = name.replace("_", "-")
        if spelled in _ANSWERS:
            raise ValueError(f"{name} is not a flag of segjax: {_ANSWERS[spelled]}")
        if spelled in _SIZES:
            if not equals:
                raise ValueError(f"{name}: write {name}=N, or --data.size H W")
            made += ["--data.size", value, value]
        else:
            made.append(f"{_SAME.get(spelled, name)}{equals}{value}")
    return made


def split_flag(flags: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """Extracts a flag; the last value counts.

    Returns:
      The value, or None if the flag is not present; and the other flags.

    Raises:
      ValueError: if the flag has no value.
    """
    value, others, left = None, [], list(flags)
    while left:
        flag = left.pop(0)
        if flag == name:
            if not left:
                raise ValueError(f"{name} wants a value")
            value = left.pop(0)
        elif flag.startswith(f"{name}="):
            value = flag.partition("=")[2]
        else:
            others.append(flag)
    return value, others
