"""The data set embedded://emoji: 1,911 captioned 64x64 emoji as WebDataset shards, a tenth of them held out."""
