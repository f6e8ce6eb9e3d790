"""Train, evaluate or time a model: `python main.py --data-path DIR --output-dir DIR`, or the same under torchrun."""

from __future__ import annotations

import os
import sys
from typing import Sequence

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # python -P leaves it out

from options import parsing
from runtime.errors import UserError, did_you_mean
from runtime.programs import leave, run_program, slow_imports


def run(argv: Sequence[str]) -> None:
    """Do what the command line `argv` asks for; torch is imported only where it is needed."""
    options = parsing.parse(argv)
    if options.list_models:
        from commands import list_models

        print("\n".join(list_models.lines()))
    elif options.print_completion:
        from commands import completion

        print(completion.script(options.print_completion))
    else:
        check_quickly(options)
        with slow_imports():
            from commands import train
        train.main(options)


def check_quickly(options: parsing.Options) -> None:
    """Raise UserError for what is wrong at first sight, before torch is imported: the model, the folders."""
    from commands import list_models
    from pipeline import sources
    from pipeline.layout import check_outside
    from storage.remote import is_url

    names = list_models.names()
    if options.model not in names:
        near = did_you_mean(options.model, names)
        raise UserError("--model %s is unknown; --list-models prints them all%s" % (options.model, near))
    found = list(sources.find_for(options).values())
    if not options.trains:  # which reads the classes of train, if there is one
        train = sources.find_train(options.data_path, options.train_data, options.image_root)
        found += [train] if train else []
    folders = [source.place for source in found if source.form == "folder" and not is_url(source.place)]
    for option in ("output_dir", "index_cache", "data_cache"):
        if getattr(options, option):
            check_outside(folders, "--" + option.replace("_", "-"), getattr(options, option))


def main(argv: Sequence[str] | None = None) -> int:
    """Run and return the exit status, as of runtime.programs.run_program."""
    return run_program(
        "main.py",
        run,
        argv,
        interrupted="interrupted; the last checkpoint in --output-dir is whole and can be resumed",
        memory_advice="lower --batch-size, --input-size or --num-workers",
    )


if __name__ == "__main__":
    leave(main())
