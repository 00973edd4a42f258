"""A pickle machine that supports only numbers, texts, plain containers and a few symbols.

Python's own unpickler looks names up, calls what it finds and lets objects set their own state. A
restricted version of it is only safe if no restriction was forgotten. This machine looks nothing
up: a global is a key into a table of symbols, a call runs a function of this package, and an
instruction outside the table of instructions is refused by name. The machine imports nothing,
needs no memory beyond the contents of the file, and does not recurse. The instructions are
documented in `pickletools` of the standard library.
"""

import abc
import codecs
import dataclasses
import pickletools
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from segjax.zoo.reading.untrusted import Budget, UnsafeFileError, short

_MAX_WORD = 200  # characters of a name or number, bytes of an integer
_STOP = ord(".")
_PROTOCOLS = (b"\2", b"\3", b"\4", b"\5")


@dataclasses.dataclass(frozen=True, eq=False)
class Symbol:
    """Placeholder for a global of the file, never the object itself.

    Attributes:
      name: module and attribute, as in the file.
      call: function to run when the file calls the global, with the budget and the file's
        arguments; None if the global cannot be called.
      value: meaning of the name for functions that receive it as an argument.
    """

    name: str
    call: Callable[..., Any] | None = None
    value: Any = None


class Buildable(abc.ABC):
    """A value that receives its content from a later instruction."""

    @abc.abstractmethod
    def build(self, budget: Budget, state: Any) -> None:
        """Sets the content.

        Args:
          budget: budget of the file.
          state: content from the file.
        """


class Foreign(Buildable):
    """Placeholder for an object of a trainer's own class, which is skipped and never created.

    Attributes:
      name: module and attribute of the class, as in the file.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def build(self, budget: Budget, state: Any) -> None:
        """Ignores the content."""


def _foreign(name: str) -> Symbol | None:
    """Returns a symbol for a trainer's class; None for names that do not belong in a checkpoint.

    Safety does not depend on this function, because nothing is ever looked up or called. But a file
    that names functions of Python, numpy or torch other than the few for tensors was built to do
    harm, so it is refused as a whole.
    """
    package = name.partition(".")[0]
    known = package in _OWN or package in sys.stdlib_module_names
    if known and package != "__main__" and name not in _PLAIN_CLASSES:
        return None
    return Symbol(name, lambda budget, *arguments: Foreign(name), Foreign)


_OWN = {"numpy", "torch", "jax", "jaxlib", "flax", "segjax", "pip", "setuptools", "__builtin__"}
_OWN |= {"copy_reg", "commands", "cPickle"}  # of Python 2
# Classes of settings and paths that trainers store next to the weights.
_PLAIN_CLASSES = {
    "argparse.Namespace",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.WindowsPath",
    "types.SimpleNamespace",
}


class Machine:
    """Executes one or several consecutive pickles in `data`.

    Attributes:
      position: offset of the next byte to read.
    """

    def __init__(
        self,
        data: Any,
        symbols: Mapping[str, Symbol],
        budget: Budget,
        load_persistent: Callable[[Any], Any] | None = None,
        position: int = 0,
    ) -> None:
        self.position = position
        self._data = data
        self._symbols = symbols
        self._budget = budget
        self._load_persistent = load_persistent
        self._begin()

    def _begin(self) -> None:
        self.stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Executes the pickle at `position` and moves `position` to the byte after it.

        Returns:
          The value: None, bool, int, float, str, bytes, results of symbols, or tuples, lists and
          dictionaries of these.

        Raises:
          UnsafeFileError: if the pickle asks for anything else.
          ValueError: if the pickle is damaged or incomplete.
        """
        self._begin()
        budget, actions = self._budget, _ACTIONS
        start = at = self.position
        try:
            while (code := self._data[at]) != _STOP:
                budget.steps -= 1
                self.position = at + 1
                action = actions.get(code)
                if action is None or budget.steps < 0:
                    self._refuse(code)
                action(self)
                at = self.position
            self.position = at + 1
            (value,) = self.stack
        except UnsafeFileError as error:
            raise UnsafeFileError(f"{error} (byte {at})") from None
        except (ValueError, IndexError, TypeError, OverflowError, struct.error) as error:
            raise ValueError(
                f"its pickle (from byte {start}) is cut off or damaged at byte {at}: {error}"
            ) from None
        finally:
            self._begin()
        return value

    def take(self, count: int) -> bytes:
        """Reads `count` bytes.

        Raises:
          ValueError: if fewer bytes are left.
        """
        left = len(self._data) - self.position
        if not 0 <= count <= left:
            raise ValueError(f"it announces {count} bytes, {left} are left")
        self.position += count
        return self._data[self.position - count : self.position]

    def _refuse(self, code: int) -> NoReturn:
        info = _KNOWN.get(code)
        if info is None:
            raise ValueError(f"{code:#04x} is no instruction of a pickle")
        if self._budget.steps < 0:
            raise UnsafeFileError("it has more instructions than any checkpoint needs")
        detail = ""
        if info.name == "INST":
            detail = f" of {self.word()}.{self.word()}"
        elif info.name.startswith("NEWOBJ"):
            names = [item.name for item in self.stack[-3:] if isinstance(item, Symbol)]
            detail = f" of {', '.join(names)}"
        raise UnsafeFileError(
            f"its pickle uses the instruction {info.name}{detail}, which plain tensors never need"
        )

    def line(self) -> bytes:
        """Reads up to the end of the line."""
        end = self._data.find(b"\n", self.position)
        if end < 0:
            raise ValueError("a line has no end")
        start, self.position = self.position, end + 1
        return self._data[start:end]

    def word(self) -> str:
        """Reads a line with a name or number, decoded as Latin-1."""
        line = self.line()
        if len(line) > _MAX_WORD:
            raise ValueError(f"a name or number has {len(line)} letters")
        return str(line, "latin-1")

    def unpack(self, form: str) -> Any:
        """Reads a number of the `struct` format `form`."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def push(self, value: Any) -> None:
        """Pushes a value on the stack."""
        self.stack.append(value)

    def pop_mark(self) -> list[Any]:
        """Pops everything above the last mark."""
        items = self.stack
        self.stack = self._marks.pop()
        return items

    def mark(self) -> None:
        """Pushes a mark."""
        self._marks.append(self.stack)
        self.stack = []

    def put(self, index: int) -> None:
        """Stores the top of the stack in the memo at `index`."""
        self._memo[index] = self.stack[-1]

    def memoize(self) -> None:
        """Stores the top of the stack in the memo at the next index."""
        self._memo[len(self._memo)] = self.stack[-1]

    def get(self, index: int) -> None:
        """Pushes an object from the memo."""
        if index not in self._memo:
            raise ValueError(f"it refers to its object {index}, which is not there")
        self.stack.append(self._memo[index])

    def find(self, module: Any, name: Any) -> None:
        """Pushes the symbol of a global.

        Raises:
          UnsafeFileError: if the global is neither in the table nor a trainer's class.
        """
        words = [part for part in (module, name) if isinstance(part, str) and len(part) < _MAX_WORD]
        if len(words) < 2:
            raise UnsafeFileError(f"its pickle names a global by {short(module)} and {short(name)}")
        symbol = self._symbols.get(f"{module}.{name}") or _foreign(f"{module}.{name}")
        if symbol is None:
            raise UnsafeFileError(
                f"its pickle asks for {short(f'{module}.{name}')}, "
                "which is not among the few names that checkpoints of plain tensors need"
            )
        self.stack.append(symbol)

    def call(self) -> None:
        """Replaces a symbol and its argument tuple on the stack with the symbol's result."""
        arguments = self.stack.pop()
        symbol = self.stack.pop()
        if not isinstance(symbol, Symbol) or symbol.call is None:
            raise UnsafeFileError(f"its pickle calls {_named(symbol)}")
        if not isinstance(arguments, tuple):
            raise ValueError(f"{symbol.name} is called with {short(arguments)}")
        self.stack.append(symbol.call(self._budget, *arguments))

    def new(self, code: int, count: int) -> None:
        """Replaces a trainer's class and `count` arguments with a placeholder; refuses others."""
        place = len(self.stack) - count - 1
        symbol = self.stack[place] if place >= 0 else None
        if not isinstance(symbol, Symbol) or symbol.value is not Foreign:
            self._refuse(code)
        del self.stack[place:]
        self.stack.append(Foreign(symbol.name))

    def build(self) -> None:
        """Pops a state and passes it to the object below."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Buildable):
            target.build(self._budget, state)
        elif not isinstance(target, OrderedDict):  # Its attributes (`_metadata`) are dropped.
            raise UnsafeFileError(f"its pickle sets the state of {_named(target)}")

    def persist(self, key: Any) -> None:
        """Pushes an object that is stored outside the pickle."""
        if self._load_persistent is None:
            raise UnsafeFileError(f"its pickle refers to an object outside of it: {short(key)}")
        self.stack.append(self._load_persistent(key))

    def add_items(self, items: list[Any]) -> None:
        """Appends to the list on top of the stack."""
        target = self.stack[-1]
        if isinstance(target, Foreign):
            return
        if type(target) is not list:
            raise ValueError(f"items are added to {short(target)}")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        """Adds alternating keys and values to the dictionary on top of the stack."""
        target = self.stack[-1]
        if isinstance(target, Foreign):
            return
        if not isinstance(target, dict):
            raise ValueError(f"keys are set on {short(target)}")
        target.update(pairs(items))

    def number(self, text: str) -> Any:
        """Parses a decimal integer, or a boolean of protocols 0 and 1."""
        booleans = {"00": False, "01": True}
        return booleans[text] if text in booleans else int(text)

    def long(self, count: int) -> int:
        """Reads a signed integer of `count` bytes."""
        if count > _MAX_WORD:
            raise ValueError(f"a number has {count} bytes")
        return int.from_bytes(self.take(count), "little", signed=True)

    def quoted(self) -> str:
        """Reads a quoted string of Python 2, as in protocol 0."""
        line = self.line()
        if len(line) < 2 or line[0] != line[-1] or line[:1] not in (b"'", b'"'):
            raise ValueError(f"a string stands without quotes: {short(line)}")
        return str(codecs.escape_decode(line[1:-1])[0], "latin-1")

    def text(self) -> str:
        """Reads a text of protocol 0."""
        return str(self.line(), "raw-unicode-escape")


def _named(value: Any) -> str:
    return value.name if isinstance(value, Symbol) else short(value)


def is_pickle(data: Any) -> bool:
    """Returns True if bytes start like a pickle of any protocol."""
    return (data[0] == 0x80 and data[1:2] in _PROTOCOLS) or data[:1] in (b"(", b"]", b"}", b"c")


def pairs(items: list[Any] | tuple[Any, ...]) -> dict[Any, Any]:
    """Returns a dictionary of alternating keys and values, with simple keys only.

    Hashing nested tuples can take unlimited time and stack. Large integers can be chosen to have
    equal hashes, which makes a dictionary slow.
    """
    if len(items) % 2:
        raise ValueError("a dictionary has a key without value")
    for key in items[::2]:
        # Python hashes integers modulo 2^61 - 1.
        simple = key is None or isinstance(key, str | bytes | float)
        if not simple and not (isinstance(key, int) and key.bit_length() <= 60):
            raise ValueError(f"a dictionary has {short(key)} for a key")
    return dict(zip(items[::2], items[1::2], strict=True))


def _pushes(make: Callable[[Machine], Any]) -> Callable[[Machine], None]:
    return lambda machine: machine.push(make(machine))


def _number(form: str) -> Callable[[Machine], None]:
    return _pushes(lambda machine: machine.unpack(form))


def _string(form: str, encoding: str) -> Callable[[Machine], None]:
    if not encoding:
        return _pushes(lambda machine: bytes(machine.take(machine.unpack(form))))
    # Python writes lone surrogates this way.
    errors = "surrogatepass" if encoding == "utf-8" else "strict"
    return _pushes(lambda machine: str(machine.take(machine.unpack(form)), encoding, errors))


def _tuple(count: int) -> Callable[[Machine], None]:
    def action(machine: Machine) -> None:
        items = tuple(machine.stack[len(machine.stack) - count :])
        if len(items) != count:
            raise IndexError("the stack is empty")
        del machine.stack[len(machine.stack) - count :]
        machine.stack.append(items)

    return action


def _last_two(machine: Machine) -> list[Any]:
    value = machine.stack.pop()
    return [machine.stack.pop(), value]


_BY_NAME: dict[str, Callable[[Machine], Any]] = {
    "PROTO": lambda m: m.unpack("B"),
    "FRAME": lambda m: m.unpack("<Q"),  # only a hint for buffering
    "MARK": Machine.mark,
    "NONE": _pushes(lambda _: None),
    "NEWTRUE": _pushes(lambda _: True),
    "NEWFALSE": _pushes(lambda _: False),
    "INT": _pushes(lambda m: m.number(m.word())),
    "LONG": _pushes(lambda m: m.number(m.word().removesuffix("L"))),
    "FLOAT": _pushes(lambda m: float(m.word())),
    "BININT": _number("<i"),
    "BININT1": _number("B"),
    "BININT2": _number("<H"),
    "BINFLOAT": _number(">d"),
    "LONG1": _pushes(lambda m: m.long(m.unpack("B"))),
    "LONG4": _pushes(lambda m: m.long(m.unpack("<i"))),
    "STRING": _pushes(Machine.quoted),
    "UNICODE": _pushes(Machine.text),
    # Strings of Python 2 hold bytes or text; Latin-1 preserves both.
    "SHORT_BINSTRING": _string("B", "latin-1"),
    "BINSTRING": _string("<i", "latin-1"),
    "SHORT_BINUNICODE": _string("B", "utf-8"),
    "BINUNICODE": _string("<I", "utf-8"),
    "BINUNICODE8": _string("<Q", "utf-8"),
    "SHORT_BINBYTES": _string("B", ""),
    "BINBYTES": _string("<I", ""),
    "BINBYTES8": _string("<Q", ""),
    "BYTEARRAY8": _string("<Q", ""),
    "EMPTY_TUPLE": _pushes(lambda _: ()),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "TUPLE": lambda m: m.push(tuple(m.pop_mark())),
    "EMPTY_LIST": _pushes(lambda _: []),
    "LIST": lambda m: m.push(m.pop_mark()),
    "APPEND": lambda m: m.add_items([m.stack.pop()]),
    "APPENDS": lambda m: m.add_items(m.pop_mark()),
    "EMPTY_DICT": _pushes(lambda _: {}),
    "DICT": lambda m: m.push(pairs(m.pop_mark())),
    "SETITEM": lambda m: m.set_items(_last_two(m)),
    "SETITEMS": lambda m: m.set_items(m.pop_mark()),
    "PUT": lambda m: m.put(m.number(m.word())),
    "BINPUT": lambda m: m.put(m.unpack("B")),
    "LONG_BINPUT": lambda m: m.put(m.unpack("<I")),
    "MEMOIZE": Machine.memoize,
    "GET": lambda m: m.get(m.number(m.word())),
    "BINGET": lambda m: m.get(m.unpack("B")),
    "LONG_BINGET": lambda m: m.get(m.unpack("<I")),
    "GLOBAL": lambda m: m.find(m.word(), m.word()),
    "STACK_GLOBAL": lambda m: m.find(*_last_two(m)),
    "REDUCE": Machine.call,
    "BUILD": Machine.build,
    "NEWOBJ": lambda machine: machine.new(0x81, 1),
    "NEWOBJ_EX": lambda machine: machine.new(0x92, 2),
    "PERSID": lambda m: m.persist(m.word()),
    "BINPERSID": lambda m: m.persist(m.stack.pop()),
}
_KNOWN = {ord(op.code): op for op in pickletools.opcodes}
_ACTIONS = {code: _BY_NAME[op.name] for code, op in _KNOWN.items() if op.name in _BY_NAME}
