"""What training does to clips and batches besides cropping: RandAugment, erasing, mixup."""
