"""Train a small PyTorch network on handwritten digits, of which a few are broken."""

import chainrob.torch
import torch
from sklearn.datasets import load_digits

# The data: 8 x 8 images. Every 50th training image is broken: its pixels are 200 times too large.
digits = load_digits()
x = torch.tensor(digits.data / 16, dtype=torch.float32)
t = torch.tensor(digits.target)
x_train, t_train, x_test, t_test = x[:1200].clone(), t[:1200], x[1200:], t[1200:]
x_train[::50] *= 200


def train(robustifier):
    """Train the network for 20 epochs. Return its accuracy on clean test images."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    if robustifier is not None:
        chainrob.torch.robustify(model, robustifier)  # the one line that changes
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    data = torch.utils.data.TensorDataset(x_train, t_train)
    for epoch in range(20):
        for images, labels in torch.utils.data.DataLoader(data, batch_size=50, shuffle=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return float((model(x_test).argmax(dim=1) == t_test).float().mean())


print(f"plain mean:       {train(None):.2f}")
print(f"5% trimmed mean:  {train(chainrob.TrimmedMean(fraction=0.05)):.2f}")
