"""The model class that pyiqa's trainer and tester drive (``model_type: AMHPModel``)."""

import logging
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pyiqa.utils import get_root_logger
from pyiqa.utils.dist_util import master_only
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LinearLR, SequentialLR

from pyiqa_amhp.datasets.dataset import frozen_encoders
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.train.distributed import all_reduce_sum, world_size
from pyiqa_amhp.train.evaluation import EvalModel
from pyiqa_amhp.train.frozen import FrozenEncoders
from pyiqa_amhp.train.optim import OptimizerStepper
from pyiqa_amhp.train.options import one_of
from pyiqa_amhp.train.predictor import PredictorTraining
from pyiqa_amhp.train.state import random_states, set_random_states, write_state
from pyiqa_amhp.weights.checkpoint import check_keys, read_tensors, save_checkpoint
from pyiqa_amhp.weights.hub import fetch_model, hub_id, is_hub_id

WEIGHT_DECAY = 1e-3  # paper, section 4.2.1
KEEP_LAST = 2  # training states


class AMHPModel(EvalModel):
    """Trains and tests an arch that takes texts and gives level distributions.

    Differs from pyiqa's ``GeneralIQAModel`` in these: images go with their texts; the loss
    compares distributions; weight decay holds for every parameter group; samples that could
    not be read are left out and counted; the best checkpoint carries its configuration;
    testing works without a training section; encoders can be frozen; and a training state holds
    all that it takes to go on exactly.

    Options of the section ``train``, beside pyiqa's and those of ``update.py``:

        freeze: ``image``, ``text``, ``both`` or ``none`` (default; paper: everything is trained).
            The features of a frozen encoder are made once and kept on disk. For images that takes
            the same option in the data sets, which then give no pixels.
        feature_cache: the folder for them; default: in the user's cache.
        predictor_weight, text_dropout: see ``predictor.py``.
        schedule_by: what the scheduler and ``warmup_iter`` count: ``epoch`` (default; authors'
            code) or ``step``. By steps, ``T_max`` is all that come after the warm-up unless it is
            given, and the warm-up rises from the first step on.

    Of the section ``logger``: ``keep_last``, how many training states are kept (default 2) and,
    where it is given, how many numbered checkpoints.

    In testing, a network with a predictor is measured with given texts, with predicted ones and
    without any, side by side.

    Raises:
        AMHPError: options that cannot be, or that do not fit each other or the data.
    """

    def __init__(self, opt):
        self.predictor: PredictorTraining | None = None
        self.epochs_ended = 0
        super().__init__(opt)

    def model_to_device(self, net):
        """As pyiqa, on the CPU too; what is frozen is so before processes look what is trained."""
        train = self.opt['train'] if self.is_train else {}
        if encoders := frozen_encoders(train.get('freeze')):
            self.frozen = FrozenEncoders(net, encoders, train.get('feature_cache'))
        if self.is_train and getattr(net, 'predictor', None) is not None:
            self.predictor = PredictorTraining(net, train, self.opt.get('manual_seed') or 0)
        if not (self.is_train and self.opt['dist']):
            if self.is_train and self.opt['num_gpu'] > 1:  # DataParallel does not share texts out
                raise AMHPError(
                    f'num_gpu={self.opt["num_gpu"]} in one process; set num_gpu: 1, or train with '
                    f'torchrun --nproc_per_node={self.opt["num_gpu"]} -m pyiqa_amhp train'
                )
            return net.to(self.device)
        on_gpu = self.device.type == 'cuda'
        return DistributedDataParallel(
            net.to(self.device),
            device_ids=[torch.cuda.current_device()] if on_gpu else None,
            # a batch without texts leaves the text encoder out
            find_unused_parameters=self.opt.get('find_unused_parameters', True),
        )

    def load_network(self, net, load_path, strict=True, param_key='params'):
        """As pyiqa (``path: pretrain_network``), but no code in the file can run.

        The path may be ``hf-hub:owner/name``, too.
        """
        get_root_logger().info(f'Loading {load_path}')
        file = fetch_model(hub_id(load_path)) if is_hub_id(load_path) else load_path
        bare, state = self.get_bare_model(net), read_tensors(file)
        if strict:
            check_keys(bare, state, load_path)
        bare.load_state_dict(state, strict=strict)

    def init_training_settings(self):
        """As pyiqa, and what makes a step of a loss."""
        super().init_training_settings()
        size = self.opt['datasets']['train']['batch_size_per_gpu']
        net = self.get_bare_model(self.net)
        self.updates = OptimizerStepper(net, self.optimizer, self.opt['train'], size)

    def setup_optimizers(self):
        """As pyiqa, but groups from ``lr_<part>`` keys get the weight decay too."""
        optim = self.opt['train']['optim']
        optim.setdefault('weight_decay', WEIGHT_DECAY)
        for key in [key for key in optim if key.startswith('lr_')]:
            optim.setdefault(f'weight_decay_{key.removeprefix("lr_")}', optim['weight_decay'])
        with _one_line_for_what_is_frozen(self.net):
            super().setup_optimizers()
        groups = self.optimizer.param_groups
        groups[:] = [group for group in groups if group['params']]  # pyiqa keeps some empty ones

    def setup_schedulers(self, scheduler_name='scheduler'):
        """As pyiqa; by steps, with a warm-up that begins with the first one."""
        train = self.opt['train']
        self.by_step = one_of(train, 'schedule_by', ('epoch', 'step')) == 'step'
        if not self.by_step:
            return super().setup_schedulers(scheduler_name)
        warmup = max(0, train.get('warmup_iter') or 0)
        steps = -(-train['total_iter'] // (train.get('accumulate') or 1))
        if train[scheduler_name]['type'] == 'CosineAnnealingLR':
            T_max = train[scheduler_name].get('T_max')
            train[scheduler_name]['T_max'] = T_max or max(1, steps - warmup)
        super().setup_schedulers(scheduler_name)
        if warmup:
            [after] = self.schedulers
            rising = LinearLR(self.optimizer, 1 / (warmup + 1), total_iters=warmup)
            self.schedulers = [SequentialLR(self.optimizer, [rising, after], [warmup])]

    def optimize_parameters(self, current_iter):
        """Take the batch that was fed; make a step where ``accumulate`` of them are there."""
        self.record.iteration = current_iter
        self._losses, images = OrderedDict(), len(self.text)
        if not images:  # every image of the batch was unreadable
            if world_size() == 1:
                return
            self._stand_in()
        losses, options = self._losses, {}
        if self.predictor is not None:
            dropped = self.predictor.drop_texts(self.text, self.img_path, current_iter)
            options = {'predicted': dropped, 'return_prompt': True}
        self.output_score, self.output_dist, *prompt = self.net_forward(self.net, **options)
        if self.cri_mos:
            losses['l_mos'] = self.cri_mos(self.output_dist, self.gt_mos_dist)
        if self.cri_metric:
            losses['l_metric'] = self.cri_metric(self.output_score, self.gt_mos)
        if prompt:
            losses['l_predictor'] = self.predictor.loss(prompt[0], self.attr_levels)
        if not losses:
            raise AMHPError('train: no loss; give mos_loss_opt: {type: AMHPEMDLoss}')
        self._images = images
        if self.updates.add(sum(losses.values()), images, self.img_path) and self.by_step:
            self._step_schedulers()

    def _stand_in(self) -> None:
        """One empty image that counts nothing: the other processes wait for this one's gradient."""
        net = self.get_bare_model(self.net)
        values = net.level_values
        if self.img_input is not None:
            self.img_input = self.img_input.new_zeros(1, *self.img_input.shape[1:])
        self.text, self.img_path, self.gt_mos = [''], [''], values.mean().reshape(1, 1)
        self.gt_mos_dist = torch.full_like(values, 1 / len(values))[None]
        self.attr_levels = {name: torch.tensor([-1]) for name in self.attr_levels}
        self.features = {name: x.new_zeros(1, x.shape[1]) for name, x in self.features.items()}

    def get_current_log(self):
        """The losses of the last batch, the means over the images of all processes."""
        names = list(self._losses)
        values = [loss.item() * self._images for loss in self._losses.values()]
        *sums, images = all_reduce_sum([*values, self._images if names else 0.0], self.device)
        return OrderedDict((name, s / max(images, 1)) for name, s in zip(names, sums, strict=True))

    def _step_schedulers(self) -> None:
        for scheduler in self.schedulers:
            scheduler.step()

    def end_epoch(self) -> None:
        """Make a step of what is left of ``accumulate``.

        Raises:
            AMHPError: nothing was trained in the first epoch.
        """
        if self.updates.pending and self.updates.finish() and self.by_step:
            self._step_schedulers()
        if not (self.updates.steps or self.updates.overflows or self.updates.skipped):
            raise AMHPError(
                f'train: not one step was made. {len(self.unreadable)} images could not be read; '
                'pyiqa drops the last batch if it is smaller than batch_size_per_gpu, so there '
                'must be at least that many images'
            )

    def update_learning_rate(self, current_iter, warmup_iter=-1):
        """The trainer calls this at the end of each epoch."""
        self.end_epoch()
        self.epochs_ended += 1
        if not self.by_step:
            super().update_learning_rate(current_iter, warmup_iter)

    def eval_net(self):
        """What is validated and saved: the averaged weights, if there is an average."""
        return (self.updates.average if self.is_train else None) or self.net

    def save(self, epoch, current_iter):
        """The checkpoint ``net_<iter>.pth`` (-1: ``net_latest.pth``), and with it the state."""
        self.save_network(self.eval_net(), 'net', current_iter)
        if current_iter != -1:
            self.save_training_state(epoch, current_iter)

    @master_only
    def save_training_state(self, epoch, current_iter):
        """Everything that it takes to go on exactly; see ``state.py``."""
        state = {
            'epoch': epoch,
            'iter': current_iter,
            'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
            'schedulers': [scheduler.state_dict() for scheduler in self.schedulers],
            'net': self.get_bare_model(self.net).state_dict(),
            'updates': self.updates.state(),
            'epochs_ended': self.epochs_ended,
            'best': self.best_metric_results,
            'unreadable': self.unreadable,
            'random': random_states(),
        }
        keep = self.opt['logger'].get('keep_last')
        write_state(Path(self.opt['path']['training_states']), state, keep or KEEP_LAST)
        if keep:
            _keep_newest(Path(self.opt['path']['models']), keep)

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Go on from a training state.

        Raises:
            AMHPError: a state that an ``AMHPModel`` did not write.
        """
        if missing := {'net', 'updates', 'random'} - resume_state.keys():
            raise AMHPError(
                f'the training state has no {", ".join(sorted(missing))}: it was not written by '
                'AMHPModel, and the training cannot go on from it; start anew'
            )
        super().resume_training(resume_state)
        self.get_bare_model(self.net).load_state_dict(resume_state['net'])
        self.updates.load_state(resume_state['updates'])
        self.epochs_ended = resume_state['epochs_ended']
        self.best_metric_results = resume_state['best']
        self.key_metric = (self.opt.get('val') or {}).get('key_metric')
        self.unreadable = dict(resume_state['unreadable'])
        self.record.go_on(resume_state['iter'])
        set_random_states(resume_state['random'])

    @master_only
    def save_network(self, net, net_label, current_iter=None, param_key='params'):
        """Write a checkpoint under pyiqa's name for it, atomically."""
        label = {None: '', -1: '_latest'}.get(current_iter, f'_{current_iter}')
        path = Path(self.opt['path']['models'], f'{net_label}{label}.pth')
        state = self.get_bare_model(net).state_dict()
        save_checkpoint(path, state)
        self.record.saved(path.name, state)


def _keep_newest(models: Path, keep: int) -> None:
    """Delete all numbered checkpoints but the newest."""
    numbered = [p for p in models.glob('net_*.pth') if p.stem.removeprefix('net_').isdigit()]
    numbered.sort(key=lambda path: int(path.stem.removeprefix('net_')))
    for old in numbered[:-keep]:
        old.unlink(missing_ok=True)


@contextmanager
def _one_line_for_what_is_frozen(net):
    """pyiqa warns of each parameter that is not trained, some 300 for CLIP's encoders."""
    frozen = sum(p.numel() for p in net.parameters() if not p.requires_grad)
    logger = get_root_logger()
    if frozen:
        logger.info(f'{frozen:,} parameters are frozen')
    logger.addFilter(_is_no_frozen_parameter)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_frozen_parameter)


def _is_no_frozen_parameter(record: logging.LogRecord) -> bool:
    return not record.getMessage().endswith('will not be optimized.')
