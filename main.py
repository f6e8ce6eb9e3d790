"""Train, evaluate or time a model: `python main.py --data-path DIR --output-dir DIR`, or the same under torchrun."""

import sys

from options import parsing
from runtime.programs import run_program, slow_imports


def run(argv):
    """Do what the command line `argv` asks for; torch is imported only where it is needed."""
    options = parsing.parse(argv)
    if options.list_models:
        from commands import list_models

        print("\n".join(list_models.lines()))
    elif options.print_completion:
        from commands import completion

        print(completion.script(options.print_completion))
    else:
        with slow_imports():
            from commands import train
        train.main(options)


def main(argv=None):
    """Run and return the exit status, as of runtime.programs.run_program."""
    return run_program(
        "main.py",
        run,
        argv,
        interrupted="interrupted; the last checkpoint in --output-dir is whole and can be resumed",
        memory_advice="lower --batch-size, --input-size or --num-workers",
    )


if __name__ == "__main__":
    sys.exit(main())
