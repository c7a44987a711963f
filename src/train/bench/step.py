"""The training step of inspect-train in PyTorch, as one would write it there: the other arm of `bench`.

Network, losses and optimiser are those of net.rs, loss.rs and optimiser.rs, run eagerly, with what PyTorch
offers for speed on a processor: channels_last, ReLU in place, fused AdamW, foreach clipping and average,
autocast for bf16. Pictures are random and already in memory.

Started by `inspect-train bench --pytorch PYTHON`, with the settings as JSON in its one argument. Writes one
line of JSON when it is ready; then, for each line with a number of steps on standard input, one line with
the milliseconds of each step. Ends with standard input.
"""

import json
import signal
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn


def conv(inputs, out, kernel=3, stride=1):
    """Convolution and BatchNorm, which keeps no statistics: they are estimated once, after learning."""
    return nn.Sequential(
        nn.Conv2d(inputs, out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out, track_running_stats=False),
    )


def block(inputs, out, stride=1):
    return nn.Sequential(*conv(inputs, out, 3, stride), nn.ReLU(inplace=True))


def up(inputs, out):
    return nn.Sequential(block(inputs, out), nn.UpsamplingNearest2d(scale_factor=2))


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.b = block(width, width), conv(width, width)

    def forward(self, x):
        return F.relu_(self.b(self.a(x)).add_(x))


def res(width, count):
    return nn.Sequential(*(Residual(width) for _ in range(count)))


class Merge(nn.Module):
    def __init__(self, coarse, out):
        super().__init__()
        self.a, self.b = conv(coarse, out, 1), block(out, out)

    def forward(self, coarse, fine):
        return self.b(F.interpolate(self.a(coarse), scale_factor=2) + fine)


class Net(nn.Module):
    def __init__(self, channels, cells, widths, latent, depth):
        super().__init__()
        c, n = channels, depth
        w0, w1, w2, w3 = widths
        self.channels = c
        self.encoder = nn.Sequential(
            block(c, w0, 2), block(w0, w1, 2), res(w1, n - 1),
            block(w1, w2, 2), res(w2, n), block(w2, w3, 2), res(w3, n),
        )
        self.mu, self.logvar = nn.Conv2d(w3, latent, 1), nn.Conv2d(w3, latent, 1)
        self.position = nn.Parameter(torch.zeros(1, w3, cells, cells))
        self.d3 = conv(latent, w3)
        self.decoder = nn.Sequential(
            res(w3, n), up(w3, w2), res(w2, n), up(w2, w1), res(w1, n - 1), up(w1, w0),
            nn.Conv2d(w0, 4 * (c + 1), 3, padding=1), nn.PixelShuffle(2),
        )
        self.h1 = nn.Sequential(block(3 * c, w0, 2), block(w0, w1, 2), res(w1, n))
        self.h2 = nn.Sequential(block(w1, w2, 2), res(w2, n))
        self.h3 = nn.Sequential(block(w2, w3, 2), res(w3, n))
        self.h4, self.h5 = Merge(w3, w2), Merge(w2, w1)
        self.logit = nn.Conv2d(w1, 1, 1)

    def forward(self, x):
        seen = self.encoder(x)
        mu, logvar = self.mu(seen).float(), self.logvar(seen).float().clamp(-10, 5)
        z = mu + torch.randn_like(mu) * (logvar * 0.5).exp()
        y = self.decoder(F.relu_(self.d3(z) + self.position)).float().contiguous()
        picture = y[:, : self.channels]
        log_variance = y[:, self.channels :].clamp(-6, 2)
        with torch.no_grad():
            residual = ((x - picture) * (log_variance * -0.5).exp()).clamp(-6, 6)
        fine = self.h1(torch.cat([x, picture.detach(), residual], 1).contiguous(memory_format=torch.channels_last))
        middle = self.h2(fine)
        logits = self.logit(self.h5(self.h4(self.h3(middle), middle), fine)).float()
        return mu, logvar, picture, log_variance, logits


def structure(x, y):
    def pool(t):
        return F.avg_pool2d(t, 8, 4)

    mx, my = pool(x), pool(y)
    vx, vy = pool(x.square()) - mx.square(), pool(y.square()) - my.square()
    covariance = pool(x * y) - mx * my
    return 1 - ((2 * covariance + 0.02) / (vx + vy + 0.02)).mean()


def reconstruction_loss(mu, logvar, picture, log_variance, target, known, mask):
    picture, target = picture * known, target * known
    difference = picture - target
    l1 = (difference.abs() * (1 + 2 * mask)).mean()
    along = [difference.diff(dim=d).abs().mean() for d in (2, 3)]
    clean, pixels = len(mu) // 2, difference.shape[2] * difference.shape[3]
    squared, spread = difference[:clean].square().mean(1, keepdim=True), log_variance[:clean]
    likelihood = 0.5 * (squared * (-spread).exp() + spread) * (0.5 * spread).exp().detach()
    kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum() / (len(mu) * pixels)
    return likelihood.mean() + kl + l1 + structure(picture, target) + 0.5 * sum(along)


def head_loss(logits, mask):
    cells = F.max_pool2d(mask, 4)
    sure, clean = (cells > 0.75).float(), (cells < 0.25).float()
    p, miss, alarm = logits.sigmoid(), F.softplus(-logits), F.softplus(logits)
    focal = miss * (1 - p).square() * sure + alarm * p.square() * clean
    hit, false, missed = (p * sure).sum(), (p * clean).sum(), ((1 - p) * sure).sum()
    overlap = (hit + 1) / (hit + 0.3 * false + 0.7 * missed + 1)
    hard = (alarm * clean).view(-1)
    hard = hard.topk(max(1, hard.numel() // 100)).values.mean()
    pooled = F.avg_pool2d(logits, 3, 1, 1).flatten(1)
    flat = cells.flatten(1)
    largest, defective = pooled.amax(1), (flat.amax(1) > 0.25).float()
    picture = F.softplus(-largest) * defective + F.softplus(largest) * (1 - defective)
    assert not ((flat > 0.25) & (flat < 0.75)).any()  # such regions are not among these pictures
    known = sure.sum() + clean.sum() + 1
    return 5 * focal.sum() / known + 0.5 * (1 - overlap) + 0.2 * hard + 0.2 * picture.mean()


class Learner:
    def __init__(self, told):
        torch.manual_seed(told["seed"])
        size, channels, self.batch = told["size"], told["channels"], told["batch"]
        net = Net(channels, size // 16, told["widths"], told["latent"], told["depth"])
        self.net = net.to(memory_format=torch.channels_last).train()
        self.weights = list(self.net.parameters())
        self.average = [w.detach().clone() for w in self.weights]
        self.optimiser = torch.optim.AdamW(self.weights, lr=2e-3, weight_decay=1e-4, fused=True)
        self.short = told["precision"] == "bf16"
        self.steps = 0
        # A few batches in turn, as a loader would have them ready.
        shape = (self.batch, channels, size, size)
        self.batches = [(torch.rand(shape) * 255, torch.rand(shape) * 255, self.mask(size)) for _ in range(4)]
        self.known = torch.ones(self.batch, 1, 1, 1)

    def mask(self, size):
        mask = torch.zeros(self.batch, 1, size, size)
        mask[self.batch // 2 :, :, size // 4 : size // 2, size // 4 : size // 2] = 1
        return mask

    def step(self):
        x, target, mask = self.batches[self.steps % len(self.batches)]
        x, target = (x - 127.5) * (1 / 74), (target - 127.5) * (1 / 74)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.short):
            mu, logvar, picture, log_variance, logits = self.net(x)
        loss = reconstruction_loss(mu, logvar, picture, log_variance, target, self.known, mask)
        loss = loss + head_loss(logits, mask)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, 5.0, foreach=True)
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.weights, 1e-3)
        self.steps += 1
        return loss.item()


def answer(**values):
    print(json.dumps(values), flush=True)


def main():
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    told = json.loads(sys.argv[1])
    torch.set_num_threads(told["threads"])
    learner = Learner(told)
    shapes = sorted(list(w.shape) for w in learner.weights)
    answer(version=torch.__version__, shapes=shapes)
    for line in sys.stdin:
        took = []
        for _ in range(int(line)):
            start = time.perf_counter()
            learner.step()
            took.append((time.perf_counter() - start) * 1e3)
        answer(ms=took)


main()
