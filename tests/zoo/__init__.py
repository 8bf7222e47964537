"""Models in the style of Chainer's examples, turned into robust training as a user would."""
