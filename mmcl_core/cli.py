"""What all commands share: logging beside progress bars, errors as one line, exit statuses.

Exit status: 0 done; 1 the work failed, such as a training whose loss is not finite, a row of a sweep, or what there is
not enough memory for; 2 wrong arguments, settings or data, also where ``prepare --check`` found faults; 75 stopped by a
signal, with the state saved: the same command goes on; 130 stopped by Ctrl-C. Each error is one line ``error: ...`` on
standard error. A traceback is a fault of the program.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import re
import select
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from mmcl_core.errors import MmclError, RunInterruptedError, TrainingError, out_of_memory
from mmcl_core.progress import show_progress

__all__ = [
    "EXIT_ERROR",
    "EXIT_FAILED",
    "EXIT_INTERRUPTED",
    "EXIT_STOPPED",
    "SETTING",
    "add_logging_options",
    "as_plain_text",
    "command_parser",
    "run_command",
    "set_up_logging",
]

logger = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_ERROR = 2
EXIT_STOPPED = 75  # EX_TEMPFAIL: try again later
EXIT_INTERRUPTED = 130
#: What helps where memory is short.
_LESS = "end what else uses it, take another device, or ask for less at once, such as fewer or smaller pictures"


class _ProgressHandler(logging.Handler):
    """Writes to standard error, above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            from tqdm import tqdm

            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


#: What the help calls a word that is a setting of a run.
SETTING = "section.key=value"


class _Store(argparse.Action):
    """Keeps what an option is given; of one that takes several values and comes again, those before as well."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        before = getattr(namespace, self.dest, self.default)
        again = self.nargs == "+" and before is not self.default
        setattr(namespace, self.dest, [*before, *values] if again else values)


class _Parser(argparse.ArgumentParser):
    """Takes a ``~/`` for the home folder where a shell leaves it as it is, such as in ``--out=~/run``.

    Where settings are given as words, it says so of an option that there is not. An option that takes several values
    may come several times. What begins with a negative number, such as a box that begins left of the picture, is no
    option.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register("action", None, _Store)

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized") and any(action.metavar == SETTING for action in self._actions):
            message += f"; settings are given as {SETTING}, without dashes, such as train.epochs=10"
        super().error(message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([_as_value(_with_home(word)) for word in words], namespace)


def _as_value(word: str) -> str:
    # With a blank argparse does not take it for an option, and numbers are read past one.
    return f" {word}" if re.fullmatch(r"-[\d.]+(,[-\d.]+)+", word) else word


def _with_home(word: str) -> str:
    option, sign, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + sign + (os.path.expanduser(value) if value.startswith("~/") else value)


def set_up_logging(level: int = logging.INFO) -> None:
    """Log to standard error, past progress bars; of the processes of a ``torchrun`` all but 0 log errors alone.

    Args:
        level: lowest level that is shown.
    """
    handler = _ProgressHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    main_process = os.environ.get("RANK", "0") == "0"
    level = level if main_process else max(level, logging.ERROR)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    show_progress(level <= logging.INFO)


def command_parser(module: str, description: str | None, examples: str = "") -> argparse.ArgumentParser:
    """A parser for ``python -m <module>`` whose texts keep their line breaks.

    Args:
        module: full name of the command's module, such as ``mmcl_core.train``.
        description: what the command does.
        examples: command lines shown at the end of the help.
    """
    return _Parser(
        prog=f"python -m {module}",
        description=as_plain_text(description or ""),
        epilog=f"examples:\n{examples}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def as_plain_text(text: str) -> str:
    """The text of a docstring as a terminal shows it: without marks for code, bold and references.

    Columns, which two spaces part, stay under each other.
    """

    def cell(match: re.Match[str]) -> str:
        words = re.sub(r":\w+:`[~.]?([^`]+)`", r"\1", match[1])
        words = re.sub(r"\*\*(?=\w)|(?<=[\w.:,])\*\*", "", words.replace("``", ""))
        return words + match[2] + " " * (len(match[1]) - len(words) if match[2] else 0)

    return re.sub(r"(\S+(?: \S+)*)( {2,}|)", cell, text)


def add_logging_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--quiet`` and ``--verbose``, which set ``options.log_level``."""
    group = parser.add_mutually_exclusive_group()
    parser.set_defaults(log_level=logging.INFO)
    for flag, level, text in (
        ("--quiet", logging.WARNING, "log warnings only, without progress bars"),
        ("--verbose", logging.DEBUG, "log more, with the traceback of an error"),
    ):
        group.add_argument(flag, dest="log_level", action="store_const", const=level, help=text)


def run_command(action: Callable[[], int | None], level: int = logging.INFO) -> int:
    """Run a command and translate what it raises into an exit status (see the module).

    Args:
        action: the command, its arguments already parsed; returns an exit status, ``None`` for 0.
        level: lowest level that is logged.
    """
    _open_closed_streams()
    set_up_logging(level)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    cause: Exception
    status = 0
    try:
        status = action() or 0
        print(end="", flush=True)  # here, where a reader that has gone is known, and not when Python ends
        return status
    except RunInterruptedError as stop:
        logger.warning("%s", stop)
        return EXIT_STOPPED
    except MmclError as error:
        message, cause = str(error), error
        status = EXIT_FAILED if isinstance(error, TrainingError) else EXIT_ERROR
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_gone():  # such as head, which has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return status
        if error.strerror is None:
            raise
        message, cause = f"{error.filename}: {error.strerror}" if error.filename else error.strerror, error
        status = EXIT_ERROR
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            message += "; a folder is expected there: name another place"
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:  # those of ONNX Runtime and OpenCV are of classes of their own
        if not out_of_memory(error):
            raise
        why = (str(error).splitlines() or ["host memory"])[0]
        message, cause, status = f"out of memory: {_LESS} [{why}]", error, EXIT_FAILED
    logger.debug("the error came from here:", exc_info=cause)
    print(f"error: {message}", file=sys.stderr)
    return status


def _open_closed_streams() -> None:
    """Open what the caller has closed, as with ``2>&-``, to nothing.

    Otherwise files of the work would get the numbers 0 to 2, and what libraries say on standard error would go there.
    """
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(opened, True)  # for the processes that it starts, as such streams are
    os.close(opened)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  as long as the process lives


def _reader_gone() -> bool:
    """Whether nobody reads standard output any more; if not, a pipe that broke is another one."""
    try:
        descriptor = sys.stdout.fileno()
    except (AttributeError, OSError):  # there is none, or it is no file
        return False
    poll = select.poll()
    poll.register(descriptor, 0)  # what is told without being asked for: an error, or the other end hung up
    return bool(poll.poll(0))
