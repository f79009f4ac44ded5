"""The commands and Python of the documentation: found, and checked without being run.

A comment directly above a block says what it takes beyond the package (``docs/hooks/needs.py``):
``<!-- needs: AVA, GPU -->``, or ``<!-- needs: network for nima -->`` for its lines with ``nima``.
"""

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / 'docs' / 'hooks'))
from needs import MARK, NEEDS, names_of  # noqa: E402

PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
# What the tests have stand-ins for: small data sets, tiny weights, options for the processor.
STOOD_IN = {'AVA', 'PARA', 'AADB', 'CLIP', 'GPU'}
FENCE = re.compile(r'^( *)```(\S*)[^\n]*\n(.*?)^\1```$', re.M | re.S)
SHELL_SYNTAX = re.compile(r'[|;<>`$]')
# Programs that only marked blocks call; of ours, everything is looked at.
OTHER_PROGRAMS = {'pip', 'hf', 'git', 'ray', 'ruff', 'mkdocs', '.'}
PASSED_ON = {'--auto_resume', '--debug', '--force_yml'}  # to pyiqa, by amhp train and test


@dataclass(frozen=True)
class Command:
    """One command, or the whole of a Python block, and the names of what it needs."""

    place: str
    text: str
    needs: frozenset[str]
    python: bool = False

    @property
    def runs(self) -> bool:
        """Whether the tests run it."""
        return self.needs <= STOOD_IN

    @property
    def words(self) -> list[str]:
        """As a shell would split it, without the comment."""
        return shlex.split(self.text, comments=True)


def commands(page: Path) -> list[Command]:
    """All commands of a page, in their order.

    Raises:
        ValueError: a mark that is not directly above a block, or names something unknown.
    """
    text, found, used = page.read_text(encoding='utf-8'), [], 0
    for fence in FENCE.finditer(text):
        marks = list(_marks_above(text[: fence.start()]))
        used += len(marks)
        if fence[2] not in ('sh', 'python'):
            continue
        line = text.count('\n', 0, fence.start()) + 2
        for offset, code in _parts(fence[3], fence[2]):
            wanted = {n for m in marks if not m['word'] or m['word'] in code for n in names_of(m)}
            place = f'{page.name}:{line + offset}'
            found.append(Command(place, code, frozenset(wanted), fence[2] == 'python'))
    every = list(MARK.finditer(FENCE.sub('', text)))
    if len(every) != used:
        raise ValueError(f'{page.name}: {len(every)} marks, {used} of them directly above a block')
    if unknown := {name for mark in every for name in names_of(mark)} - NEEDS.keys():
        raise ValueError(f'{page.name}: needs {sorted(unknown)}, expected some of {sorted(NEEDS)}')
    return found


def _marks_above(text: str) -> Iterator[re.Match]:
    for line in reversed(text.splitlines()):
        if not (mark := MARK.fullmatch(line)):
            return
        yield mark


def _parts(code: str, language: str) -> Iterator[tuple[int, str]]:
    """A Python block whole; of the shell each command, lines that go on joined."""
    if language == 'python':
        yield 0, code
        return
    joined = re.sub(r'\\\n\s*', ' ', code)
    for offset, line in enumerate(joined.splitlines()):
        if shlex.split(line, comments=True):
            for command in line.split('&&'):
                yield offset, command.strip()


def check(command: Command) -> None:
    """See that a command could run: that it, its options and its files exist.

    Raises:
        AssertionError: it could not, with the reason.
    """
    if command.python:
        compile(command.text, command.place, 'exec')
        return
    words = _without_settings(command.words)
    program = words[0].rpartition('/')[2]
    if program == 'amhp':
        check_amhp(words[1:])
    elif program == 'torchrun':
        at = words.index('-m')
        assert words[at + 1] == 'pyiqa_amhp', words
        check_amhp(words[at + 2 :])
    elif program == 'python':
        _check_python(words[1:])
    else:
        assert program in OTHER_PROGRAMS, f'{program}: not a program that is known here'
    if program == 'pip':
        _check_extras(command.text)


def _without_settings(words: list[str]) -> list[str]:
    while re.match(r'^[A-Z_]+=', words[0]):
        words = words[1:]
    return words


def check_amhp(words: list[str]) -> None:
    """See that there is such a command of ours, with these options."""
    name, command, words = find_command(words)
    try:
        rest = command.make_context(name, list(words)).args
    except Exception as error:
        raise AssertionError(f'{name} {shlex.join(words)}: {error}') from error
    unknown = [word for word in rest if word.startswith('-') and word not in PASSED_ON]
    assert not unknown, f'{name}: {unknown}'
    for word in words:
        if word.startswith('options/'):
            assert (ROOT / word).is_file(), f'{word}: no such file'


def find_command(words: list[str]) -> tuple:
    """The name of a command of ours, the command, and the words after it."""
    from typer.main import get_command

    from pyiqa_amhp.cli.main import app

    command, name = get_command(app), 'amhp'
    while getattr(command, 'commands', None):
        assert words and words[0] in command.commands, f'{name} has no command {words[:1]}'
        name, command, words = f'{name} {words[0]}', command.commands[words[0]], words[1:]
    return name, command, words


def mentions(page: Path) -> list[str]:
    """Commands of ours that the text names, such as `amhp weights add FILE`."""
    text = FENCE.sub('', page.read_text(encoding='utf-8'))
    return [' '.join(found.split()) for found in re.findall(r'`(amhp [a-z][^`]*)`', text)]


def check_mention(text: str) -> None:
    """See that there is such a command of ours, and its options; arguments may be left out.

    Raises:
        AssertionError: there is not.
    """
    name, command, words = find_command(text.split()[1:])
    known = {opt for param in command.params for opt in param.opts} | PASSED_ON | {'--help'}
    for word in words:
        option = word.partition('=')[0]
        assert not re.match(r'--?[a-z]', option) or option in known, f'{name}: {option}'


def _check_python(words: list[str]) -> None:
    if words[:2] == ['-m', 'pyiqa_amhp']:
        check_amhp(words[2:])
    elif words[0] == '-m':
        assert find_spec(words[1]), f'{words[1]}: no such module'
    else:
        script = ROOT / words[0]
        assert script.is_file(), f'{script}: no such file'
        near = ''.join(file.read_text(encoding='utf-8') for file in script.parent.glob('*.py'))
        for word in words[1:]:
            assert not word.startswith('--') or f"'{word}'" in near, f'{words[0]}: {word}'


def _check_extras(text: str) -> None:
    project = (ROOT / 'pyproject.toml').read_text(encoding='utf-8')
    table = project.partition('[project.optional-dependencies]\n')[2].partition('\n[')[0]
    known = set(re.findall(r'^(\w+) = ', table, re.M))
    for names in re.findall(r'\[([\w,]+)\]', text):
        assert set(names.split(',')) <= known, f'{text}: expected extras of {sorted(known)}'
