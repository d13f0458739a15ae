"""A training from its arguments to the saved checkpoint."""

from datasets import Dataset
from transformers import set_seed

from .arguments import CVLSTrainingArguments, DataArguments, ModelArguments
from .building import build, check_sentences
from .checkpoints import check_output_dir, checkpoint_to_resume, only_training
from .datasets import collator_for, load_eval_set, load_train_set
from .trainer import CVLSTrainer


def train(model_args: ModelArguments, data_args: DataArguments, training_args: CVLSTrainingArguments) -> CVLSTrainer:
    """Trains a segmenter and saves it to `training_args.output_dir`.

    Returns:
        The trainer, with the trained `model` and its `state`. Where a signal stopped the training, its
        `stop.received` is the signal, and the last checkpoint is the one to resume from.

    Raises:
        ValueError: `output_dir` holds a training already, or another process is training into it; there is no whole
            checkpoint to resume from; a data set or a value is at fault.
    """
    if training_args.lora_rank and not model_args.checkpoint:
        raise ValueError(
            "`training.lora_rank` keeps the weights of a checkpoint: give `model.checkpoint`, the one to start from"
        )
    check_output_dir(training_args)
    with only_training(training_args):
        resume = checkpoint_to_resume(training_args)
        set_seed(training_args.seed)
        train_set = load_train_set(data_args, training_args.seed)
        eval_set = load_eval_set(data_args) if training_args.eval_strategy != "no" else None
        model, processor = build(model_args, data_args, train_set)
        for rows in (train_set, eval_set):
            if isinstance(rows, Dataset):  # a stream would have to be read whole
                check_sentences(rows, processor)
        trainer = CVLSTrainer(
            model=model,
            args=training_args,
            train_dataset=train_set,
            eval_dataset=eval_set,
            data_collator=collator_for(model, processor, data_args, training_args),
            processing_class=processor,
        )
        trainer.train(resume_from_checkpoint=resume)
        if trainer.stop.received is None:
            trainer.save_model()
            trainer.save_state()
        return trainer
