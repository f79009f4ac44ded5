"""The model class that our loop and pyiqa's train and test commands drive (``AMHPModel``)."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from pyiqa.utils import get_root_logger
from pyiqa.utils.dist_util import master_only
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pyiqa_amhp.datasets.dataset import frozen_encoders
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.train.changes import check_data, compare_options, options_of
from pyiqa_amhp.train.distributed import all_reduce_sum, world_size
from pyiqa_amhp.train.frozen import FrozenEncoders
from pyiqa_amhp.train.optim import OptimizerStepper
from pyiqa_amhp.train.optimizers import OptimizerSetup
from pyiqa_amhp.train.option_check import check_options
from pyiqa_amhp.train.predictor import PredictorTraining
from pyiqa_amhp.train.state import random_states, set_random_states, write_state
from pyiqa_amhp.train.step import FixedStep, Texts, obstacle
from pyiqa_amhp.weights.checkpoint import CONFIG_KEY, check_keys, read_tensors, save_checkpoint
from pyiqa_amhp.weights.hub import fetch_model, hub_id, is_hub_id

KEEP_LAST = 2  # training states; our choice


class AMHPModel(OptimizerSetup):
    """Trains and tests a network that reads images and texts and gives level distributions.

    Differences from pyiqa's ``GeneralIQAModel``: images go with their texts; the loss compares
    distributions; weight decay applies to every parameter group; samples that could not be read
    are left out and counted; a checkpoint contains the configuration; testing needs no section
    ``train``; encoders can be frozen; and a training state has all that an exact resume needs.

    Options of the section ``train``, beside pyiqa's and those of ``optim.py``:

        freeze: ``image``, ``text``, ``both`` or ``none`` (default; paper: everything is trained),
            or ``trunk`` for an image encoder of timm without its projection, which has no
            pretrained weights where an encoder of ImageNet was put into a CLIP. The features of
            what is frozen are computed once and stored on disk. For the image encoder and its trunk
            the data sets need the same option; they then give no pixels.
        feature_cache: the folder of these features; default: a folder in the user's cache.
        changed_data: true resumes with other images, ratings or texts than those of the training
            state, which is an error otherwise.
        patience: epochs without a better validation after which a training ends (our choice;
            default: it runs to its end). Our own loop reads it, pyiqa's does not.
        predictor_prompts, predicted_weight, predictor_weight, text_dropout: see ``predictor.py``.
        schedule_by: whether the scheduler and ``warmup_iter`` count epochs (``epoch``, the
            default; authors' code) or steps (``step``). With steps, the default of ``T_max`` is
            the number of steps after the warm-up, and the warm-up starts with the first step.

    Option of the section ``logger``: ``keep_last``, the number of training states to keep (default
    2) and, if it is given, of numbered checkpoints.

    A test evaluates a network with a predictor three times: with given prompts, with predicted
    prompts and without any.

    Raises:
        AMHPError: options are not allowed, or do not fit each other or the data.
    """

    def __init__(self, opt: dict[str, Any]):
        check_options(opt, opt['is_train'])
        self.predictor: PredictorTraining | None = None
        self.fixed: FixedStep | None = None
        self.epochs_ended = 0
        self._sums: dict[str, Any] = {}  # of the losses of this epoch
        self._sum_images = 0
        self.options = options_of(opt)  # pyiqa removes some after reading them
        self.data_digests: dict[str, str] = {}
        if opt['is_train'] and opt['network']['type'] == 'AMHP':
            opt['network'].setdefault('note', '')  # not that of weights that it starts from
        super().__init__(opt)

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """Move the network to its device, and wrap it if several processes train.

        Encoders are frozen here, since the wrapper looks at what is trained.
        """
        train = self.opt['train'] if self.is_train else {}
        if encoders := frozen_encoders(train.get('freeze')):
            self.frozen = FrozenEncoders(net, encoders, train.get('feature_cache'))
        if self.is_train and isinstance(net, AMHP) and net.predictor is not None:
            self.predictor = PredictorTraining(net, train, self.opt.get('manual_seed') or 0)
        if not (self.is_train and self.opt['dist']):
            if self.is_train and self.opt['num_gpu'] > 1:  # DataParallel does not split texts
                raise AMHPError(
                    f'num_gpu={self.opt["num_gpu"]} in one process; set num_gpu: 1, or train with '
                    f'torchrun --nproc_per_node={self.opt["num_gpu"]} -m pyiqa_amhp train'
                )
            return net.to(self.device)
        on_gpu = self.device.type == 'cuda'
        return DistributedDataParallel(
            net.to(self.device),
            device_ids=[torch.cuda.current_device()] if on_gpu else None,
            # the text encoder is unused in a batch without texts
            find_unused_parameters=self.opt.get('find_unused_parameters', True),
        )

    def load_network(
        self, net: nn.Module, load_path: str, strict: bool = True, param_key: str = 'params'
    ) -> None:
        """Load weights (``path: pretrain_network``) without running code in the file.

        Args:
            net: the network.
            load_path: a checkpoint, or an id of the hub, ``hf-hub:owner/name``.
            strict: whether all weights have to be there.
            param_key: pyiqa's argument; ignored, since the key is found.
        """
        get_root_logger().info(f'Loading {load_path}')
        file = fetch_model(hub_id(load_path)) if is_hub_id(load_path) else load_path
        bare, state = self.get_bare_model(net), read_tensors(file)
        if self.is_train and isinstance(bare, AMHP) and CONFIG_KEY in state:
            state[CONFIG_KEY] = _config_to_start_with(bare, state[CONFIG_KEY], load_path)
        if strict:
            check_keys(bare, state, load_path)
        bare.load_state_dict(state, strict=strict)

    def init_training_settings(self) -> None:
        """Build the losses, the optimizer and the scheduler as pyiqa, and an OptimizerStepper."""
        try:
            super().init_training_settings()
        except AMHPError:
            raise
        except (TypeError, ValueError) as error:  # of an optimizer, a scheduler or a loss
            raise AMHPError(f'train: {error}') from error
        size = self.opt['datasets']['train']['batch_size_per_gpu']
        net = self.get_bare_model(self.net)
        self.stepper = OptimizerStepper(net, self.optimizer, self.opt['train'], size)
        if isinstance(net, AMHP):  # what `precision: auto` is here
            self.record.content['train']['precision'] = net.backbone.runner.precision
        if not (reason := obstacle(self)):
            self.fixed = FixedStep(net, self.cri_mos, self.stepper)
        elif self.device.type != 'cpu':
            get_root_logger().info(
                f'The training step is launched kernel by kernel, since {reason}; see '
                'docs/training.md, "On a GPU"'
            )

    def feed_data(self, data: dict[str, Any]) -> None:
        """Keep a batch, and its texts if the loader has tokenized them (see ``TextPadder``)."""
        super().feed_data(data)
        is_whole = 'text_ids' in data and len(self.text) == len(data['text_given'])
        self.texts = None
        if is_whole:
            self.texts = Texts(data['text_ids'], data['text_given'], int(data['text_cut']))

    def optimize_parameters(self, current_iter: int) -> None:
        """Compute the losses of the batch that was fed, and make a step if one is due."""
        self.record.iteration = current_iter
        losses: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._losses, images = losses, len(self.text)
        if not images:  # every image of the batch was unreadable
            if world_size() == 1:
                return
            self._use_dummy_batch()
        pixels: Any = self.img_input
        if self.fixed is not None and self.fixed.fits(pixels):
            texts = self.texts or self.fixed.padder.pad(self.text)
            losses['l_mos'] = self.fixed(pixels, texts, self.gt_mos_dist, self.img_path)
            is_made = True
        else:
            loss = self._compute_losses(losses, current_iter)
            is_made = self.stepper.add(loss, images, self.img_path)
            for name in losses:  # no later step may find the graph of this one
                losses[name] = losses[name].detach()
            self.output_score, self.output_dist = (
                self.output_score.detach(),
                self.output_dist.detach(),
            )
        self._images = images
        for name, loss in losses.items():
            self._sums[name] = self._sums.get(name, 0) + loss * images
        self._sum_images += images
        if is_made and self.by_step:
            self._step_schedulers()

    def _compute_losses(self, losses: dict[str, torch.Tensor], iteration: int) -> torch.Tensor:
        """Compute the losses of the batch, by name, and return their sum."""
        options: dict[str, Any] = {}
        if self.predictor is not None:
            options = {'return_prompt': True, 'both_prompts': self.predictor.uses_both}
            if not self.predictor.uses_both:
                dropped = self.predictor.drop_texts(self.text, self.img_path, iteration)
                options['predicted'] = dropped
        self.output_score, self.output_dist, *more = self.net_forward(self.net, **options)
        if self.cri_mos:
            losses['l_mos'] = self.cri_mos(self.output_dist, self.gt_mos_dist)
        if self.cri_mos and self.predictor is not None and self.predictor.uses_both:
            loss = self.cri_mos(more[0], self.gt_mos_dist)
            losses['l_mos_predicted'] = self.predictor.predicted_weight * loss
        if self.cri_metric:
            losses['l_metric'] = self.cri_metric(self.output_score, self.gt_mos)
        if self.predictor is not None:
            losses['l_predictor'] = self.predictor.loss(more[-1], self.attr_levels)
        if not losses:
            raise AMHPError('train: no loss; give mos_loss_opt: {type: AMHPEMDLoss}')
        return sum(losses.values(), torch.zeros((), device=self.device))

    def _use_dummy_batch(self) -> None:
        """Replace the batch by one black image of weight 0.

        The other processes wait for the gradient of this one.
        """
        net = self.get_bare_model(self.net)
        values = net.level_values
        if self.img_input is not None:
            self.img_input = self.img_input.new_zeros(1, *self.img_input.shape[1:])
        self.text, self.img_path, self.gt_mos = [''], [''], values.mean().reshape(1, 1)
        self.gt_mos_dist = torch.full_like(values, 1 / len(values))[None]
        self.attr_levels = {name: torch.tensor([-1]) for name in self.attr_levels}
        self.features = {name: x.new_zeros(1, x.shape[1]) for name, x in self.features.items()}

    def get_current_log(self) -> OrderedDict[str, float]:
        """Return the losses of the last batch: the means over the images of all processes."""
        self.stepper.check()
        sums = {name: loss * self._images for name, loss in self._losses.items()}
        return self._means(sums, self._images if sums else 0)

    def epoch_log(self) -> OrderedDict[str, float]:
        """Return the mean losses of the batches since the last call of this method.

        They are summed on the device, which nothing has to wait for until then.
        """
        means = self._means(self._sums, self._sum_images)
        self._sums, self._sum_images = {}, 0
        return means

    def _means(self, sums: dict[str, Any], images: int) -> OrderedDict[str, float]:
        values = [float(value) for value in sums.values()]
        *sums_of_all, images_of_all = all_reduce_sum([*values, float(images)], self.device)
        return OrderedDict(
            (name, value / max(images_of_all, 1))
            for name, value in zip(sums, sums_of_all, strict=True)
        )

    def _step_schedulers(self) -> None:
        for scheduler in self.schedulers:
            scheduler.step()

    def end_epoch(self) -> None:
        """Make a step with the batches that are still pending.

        Raises:
            AMHPError: nothing was trained in the first epoch.
        """
        stepper = self.stepper
        stepper.check()
        if stepper.pending and stepper.finish() and self.by_step:
            self._step_schedulers()
        if not (stepper.steps or stepper.overflows or stepper.skipped):
            raise AMHPError(
                f'train: not one step was made. {len(self.unreadable)} images could not be read; '
                'pyiqa drops the last batch if it is smaller than batch_size_per_gpu, so there '
                'must be at least that many images'
            )

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """End an epoch, and step the scheduler unless it counts steps."""
        self.end_epoch()
        self.epochs_ended += 1
        if not self.by_step:
            super().update_learning_rate(current_iter, warmup_iter)

    def eval_net(self) -> nn.Module:
        """Return the network to validate and save: the averaged one, if there is an average."""
        if self.is_train:
            self.stepper.check()
        return (self.stepper.average if self.is_train else None) or super().eval_net()

    def save(self, epoch: int, current_iter: int) -> None:
        """Save ``net_<iter>.pth`` and the training state; -1: ``net_latest.pth`` alone."""
        self.save_network(self.eval_net(), 'net', current_iter)
        if current_iter != -1:
            self.save_training_state(epoch, current_iter)

    @master_only
    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """Save all that an exact resume needs; see ``state.py``."""
        state = {
            'epoch': epoch,
            'iter': current_iter,
            'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
            'schedulers': [scheduler.state_dict() for scheduler in self.schedulers],
            'net': self.get_bare_model(self.net).state_dict(),
            'updates': self.stepper.state_dict(),
            'epochs_ended': self.epochs_ended,
            'best': self.best_metric_results,
            'unreadable': self.unreadable,
            'random': random_states(),
            'options': self.options,
            'data': self.data_digests,
        }
        keep = self.opt['logger'].get('keep_last')
        write_state(Path(self.opt['path']['training_states']), state, keep or KEEP_LAST)
        if keep:
            _keep_newest(Path(self.opt['path']['models']), keep)

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Resume from a training state.

        Raises:
            AMHPError: the state was not written by an ``AMHPModel``, or has other batches, data
                (see ``changed_data``) or options that it holds.
        """
        if missing := {'net', 'updates', 'random'} - resume_state.keys():
            raise AMHPError(
                f'the training state has no {", ".join(sorted(missing))}: it was not written by '
                'AMHPModel, and the training cannot resume from it; start again'
            )
        # Version 0.1.0 wrote neither options nor data.
        changed = compare_options(resume_state.get('options', self.options), self.options)
        data = check_data(resume_state.get('data', {}), self.data_digests, self.opt['train'])
        if changed or data:
            parts = [changed] * bool(changed) + [f'the data of {", ".join(data)}'] * bool(data)
            get_root_logger().warning(f'Resumed with changes from here on: {"; ".join(parts)}')
        super().resume_training(resume_state)
        self.get_bare_model(self.net).load_state_dict(resume_state['net'])
        self.stepper.load_state_dict(resume_state['updates'])
        self.epochs_ended = resume_state['epochs_ended']
        self.best_metric_results = resume_state['best']
        self.key_metric = (self.opt.get('val') or {}).get('key_metric')
        self.unreadable = dict(resume_state['unreadable'])
        self.record.resume(resume_state['iter'])
        set_random_states(resume_state['random'])

    @master_only
    def save_network(
        self,
        net: nn.Module,
        net_label: str,
        current_iter: int | None = None,
        param_key: str = 'params',
    ) -> None:
        """Save a checkpoint under pyiqa's name for it, whole or not at all."""
        suffix = {None: '', -1: '_latest'}.get(current_iter, f'_{current_iter}')
        path = Path(self.opt['path']['models'], f'{net_label}{suffix}.pth')
        state = self.get_bare_model(net).state_dict()
        save_checkpoint(path, state)
        self.record.add_checkpoint(path.name, state)


def _config_to_start_with(net: AMHP, stored: torch.Tensor, path: str) -> torch.Tensor:
    """Return the configuration to load weights with that a training starts from.

    Training may go to another scale, other levels and so on; the encoders must compute the same.
    """
    changed = net.differences(stored)
    if not changed or changed.keys() & {'backbone', 'quick_gelu', 'variant'}:
        return stored  # which is compared when it is loaded
    for name, (theirs, mine) in changed.items():
        get_root_logger().info(f'{path} has {name}={theirs!r}; trained here: {name}={mine!r}')
    return net.get_extra_state()


def _keep_newest(models: Path, keep: int) -> None:
    """Delete all numbered checkpoints but the newest ``keep``."""
    numbered = [p for p in models.glob('net_*.pth') if p.stem.removeprefix('net_').isdigit()]
    numbered.sort(key=lambda path: int(path.stem.removeprefix('net_')))
    for old in numbered[:-keep]:
        old.unlink(missing_ok=True)
