"""Import the library first: nothing may import Chainer before it."""

import chainrob  # noqa: F401
