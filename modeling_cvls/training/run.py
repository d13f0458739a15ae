"""A training from its arguments to the saved checkpoint."""

from transformers import set_seed
from transformers.trainer_utils import get_last_checkpoint

from .arguments import CVLSTrainingArguments, DataArguments, ModelArguments
from .building import build
from .datasets import collator_for, load_eval_set, load_train_set
from .trainer import CVLSTrainer


def train(model_args: ModelArguments, data_args: DataArguments, training_args: CVLSTrainingArguments) -> CVLSTrainer:
    """Trains a segmenter and saves it to `training_args.output_dir`.

    Returns:
        The trainer, with the trained `model` and its `state`.
    """
    set_seed(training_args.seed)
    train_set = load_train_set(data_args, training_args.seed)
    eval_set = load_eval_set(data_args) if training_args.eval_strategy != "no" else None
    model, processor = build(model_args, data_args, train_set)
    trainer = CVLSTrainer(
        model=model,
        args=training_args,
        train_dataset=train_set,
        eval_dataset=eval_set,
        data_collator=collator_for(model, processor, data_args, training_args),
        processing_class=processor,
    )
    resume = training_args.resume_from_checkpoint
    if resume is True:
        resume = get_last_checkpoint(training_args.output_dir)
    trainer.train(resume_from_checkpoint=resume or None)
    trainer.save_model()
    trainer.save_state()
    return trainer
