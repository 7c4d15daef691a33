"""The Ray trainer, the loop, and the DeepSpeed engines it drives."""

from gen_dist.collector import collect_rarely

collect_rarely()  # here, for this is the first that a process which Ray starts imports of ours
