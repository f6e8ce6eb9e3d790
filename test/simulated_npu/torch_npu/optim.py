"""NpuFusedAdamW with the limits of the real one: it flattens parameters and gradients once, at its first use."""

import math

import torch

__all__ = ["NpuFusedAdamW"]


class NpuFusedAdamW(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False):
        if lr < 0 or eps < 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError("Invalid lr, eps, weight_decay or betas")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        super().__init__(params, defaults)
        self.is_fused_optimizer = True
        self._gradients = None  # parameter -> the gradient that the flat buffer holds

    def _combine(self):
        if self._gradients is not None:
            return
        gradients = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter.dtype not in (torch.float32, torch.float16):
                    raise TypeError(
                        "Fused optimizer's parameters must be either float32 or float16, but received %s"
                        % parameter.dtype
                    )
                if parameter.device.type != "npu":
                    raise RuntimeError("Fused optimizers take npu parameters, got one on %s" % parameter.device)
                gradients[parameter] = parameter.grad
        self._gradients = gradients or None

    @torch.no_grad()
    def zero_grad(self, set_to_none=False):
        if set_to_none:
            raise ValueError("set_to_none is not supported in fused optimizers")
        self._combine()
        for gradient in (self._gradients or {}).values():
            gradient.zero_()

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure is not None else None
        self._combine()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter in (self._gradients or {}):
                    self._update(group, parameter)
        return loss

    def _update(self, group, parameter):
        gradient = self._gradients[parameter]
        if parameter.grad is not gradient:
            raise RuntimeError("a gradient was replaced after its first use: the fused optimizer would not see it")
        state = self.state[parameter]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
            if group["amsgrad"]:
                state["max_exp_avg_sq"] = torch.zeros_like(parameter)
        beta1, beta2 = group["betas"]
        state["step"] += 1
        if not isinstance(state["step"], int):
            raise TypeError("the step of a fused optimizer is an int, this state has a %s" % type(state["step"]))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        state["exp_avg"].mul_(beta1).add_(gradient, alpha=1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        square = state["exp_avg_sq"]
        if group["amsgrad"]:
            square = state["max_exp_avg_sq"].copy_(torch.max(state["max_exp_avg_sq"], square))
        scale = (square.sqrt() / math.sqrt(1 - beta2 ** state["step"])).add_(group["eps"])
        parameter.addcdiv_(state["exp_avg"], scale, value=-group["lr"] / (1 - beta1 ** state["step"]))
