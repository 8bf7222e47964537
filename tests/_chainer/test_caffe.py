"""Caffe's models are written and read under today's protobuf."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

import chainrob
import chainer
from chainer.exporters import caffe


class Net(chainer.Chain):
    def __init__(self):
        super().__init__()
        with self.init_scope():
            self.conv = chainer.links.Convolution2D(3, 4, 3)
            self.last = chainer.links.Linear(16, 2)

    def forward(self, x):
        h = chainer.functions.max_pooling_2d(chainer.functions.relu(self.conv(x)), 2)
        return chainer.functions.softmax(self.last(h))


def test_a_model_goes_out_and_comes_back(tmp_path):
    x = np.random.default_rng(0).normal(size=(1, 3, 6, 6)).astype(np.float32)
    net = Net()
    caffe.export(net, [chainer.Variable(x)], str(tmp_path), export_params=True)
    text = (tmp_path / "chainer_model.prototxt").read_text()
    assert "num_output: 4" in text
    read = chainer.links.caffe.CaffeFunction(str(tmp_path / "chainer_model.caffemodel"))
    first, last = read.layers[0][1][0], read.layers[-1][2][0]
    (y,) = read(inputs={first: x}, outputs=[last])
    np.testing.assert_allclose(y.array, net(x).array, rtol=1e-6)


def test_the_messages_have_their_names_and_values():
    module = importlib.import_module("chainer.links.caffe.protobuf3.caffe_pb2")
    assert (module.TRAIN, module.TEST) == (0, 1)
    assert module.Phase.Name(1) == "TEST"
    assert module.V1LayerParameter.CONVOLUTION == 4
    net = module.NetParameter(name="n")
    net.layer.add(type="ReLU")
    assert module.NetParameter.FromString(net.SerializeToString()) == net
    with pytest.raises(AttributeError):
        _ = module._NETPARAMETER  # what the generated code made of nothing is gone


def test_a_model_of_chainers_zoo_becomes_robust():
    model = chainer.links.GoogLeNet(pretrained_model=None)  # VGG's weights take seconds to draw
    chainrob.robustify(model, chainrob.GeometricMedian(), layers=["/loss3_fc"])
    assert isinstance(model.loss3_fc, chainrob.links.Linear)
