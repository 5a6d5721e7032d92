"""What a training run minimises: by the images' labels, their rarity, a teacher, or two images in one."""
