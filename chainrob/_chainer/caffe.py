"""Caffe's model format in ``chainer.links.caffe`` and ``chainer.exporters``.

Chainer's reader of that format was generated for protobuf 3, and today's protobuf refuses to
execute it. All that matters in it is one string, the description of the format: the generated
module is executed with nothing behind its names, and today's protobuf makes the messages anew.
"""

from __future__ import annotations

from typing import Any

from chainrob._chainer.mending import STAND_INS, mends

_MODULE = "chainer.links.caffe.protobuf3.caffe_pb2"


class _Nothing:
    """Whatever is asked of it, it answers with itself."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self

    def __getitem__(self, key: Any) -> Any:
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        return None


class _Descriptor(_Nothing):
    """As protobuf's descriptor module, of which the generated code needs this one name."""

    @staticmethod
    def FileDescriptor(*, serialized_pb: bytes, **kwargs: Any) -> bytes:
        return _Description(serialized_pb)


class _Description(bytes):
    """The serialized description, with the attributes that the generated code writes to."""

    message_types_by_name: Any = _Nothing()
    enum_types_by_name: Any = _Nothing()


class _Google(_Nothing):
    descriptor = _Descriptor()


STAND_INS[_MODULE] = {"google": _Google()}


@mends(_MODULE)
def _caffe_pb2(module: Any) -> None:
    # A pool of its own: another package may have brought its own caffe.proto into the common one.
    from google.protobuf import descriptor_pool, message_factory
    from google.protobuf.internal import enum_type_wrapper

    if not isinstance(module.DESCRIPTOR, _Description):
        return  # imported before chainrob was, with a protobuf that takes it
    file = descriptor_pool.DescriptorPool().AddSerializedFile(bytes(module.DESCRIPTOR))
    if file is None:  # as the pool of the protobuf written in Python does
        raise ImportError("chainrob needs protobuf's compiled form to read Caffe's models")
    names = {name for name, value in vars(module).items() if isinstance(value, _Nothing)}
    for name in names:
        delattr(module, name)
    module.DESCRIPTOR = file
    for name, message in file.message_types_by_name.items():
        setattr(module, name, message_factory.GetMessageClass(message))
    for name, enum in file.enum_types_by_name.items():
        setattr(module, name, enum_type_wrapper.EnumTypeWrapper(enum))
        for value in enum.values:
            setattr(module, value.name, value.number)
