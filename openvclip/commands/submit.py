"""Run on Slurm: ``openvclip submit --cfg X.yaml --num_shards 2 ... --opts KEY VALUE``.

Each node runs what ``openvclip run`` runs with its SHARD_ID; NUM_GPUS and NUM_SHARDS are set
from the options. A job that is preempted or out of time queues itself again and resumes.
"""

from __future__ import annotations

import argparse

from openvclip.utils.command_line import Parser, through_run_tool

# Options that Slurm knows by the same name.
SLURM = {
    "partition": "partition to queue in",
    "account": "account to charge",
    "qos": "quality of service",
    "constraint": "feature that nodes must have",
    "comment": "comment for the scheduler",
    "mail_user": "address to notify when the job ends",
}


def build_parser() -> Parser:
    parser = Parser(description=__doc__.replace("``", ""))
    add = parser.add_argument
    add("--cfg", required=True, help="config file")
    add("--num_gpus", type=int, default=8, help="GPUs of each node (8); 0: CPU")
    add("--num_shards", type=int, default=1, help="nodes (1)")
    add("--job_dir", required=True,
        help="folder for logs, shared by the nodes; %%j becomes the job's number")
    add("--timeout", type=int, default=48 * 60, help="minutes (2880)")
    add("--cpus_per_gpu", type=int, default=10, help="CPU cores per GPU (10)")
    add("--mem_per_gpu", type=int, default=60, help="GB of memory per GPU (60)")
    add("--name", default="openvclip", help="name of the job (openvclip)")
    for name, text in SLURM.items():
        add(f"--{name}", help=text)
    add("--cluster", choices=("slurm", "local", "debug"),
        help="local: a process of this machine; debug: this very process (default: Slurm where "
        "there is one, else local unless an option of Slurm is given)")
    add("--wait", action="store_true", help="wait for the job's end")
    add("--opts", nargs=argparse.REMAINDER, default=[],
        help="KEY VALUE pairs that override the config; they come last")
    return parser


@through_run_tool("a submitted job keeps running")
def main(argv: list[str] | None) -> None:
    args = build_parser().parse_args(argv)
    from openvclip.launch.slurm import submit, wait_for

    slurm = {name: getattr(args, name) for name in SLURM if getattr(args, name)}
    if "mail_user" in slurm:
        slurm["mail_type"] = "END,FAIL"
    job = submit(
        args.cfg, args.opts, job_dir=args.job_dir, gpus=args.num_gpus, nodes=args.num_shards,
        timeout=args.timeout, cpus_per_gpu=args.cpus_per_gpu, memory_per_gpu=args.mem_per_gpu,
        name=args.name, cluster=args.cluster, slurm=slurm,
    )
    if args.wait:
        wait_for(job)
