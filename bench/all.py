"""Every measurement, written to bench/RESULTS.md. `make bench` runs it (about 40 minutes).

python -m bench.all
python -m bench.all --peers .venv-routers/bin     # beside nginx and the routers that are in this folder
"""

import argparse
import datetime
import os
import platform
from pathlib import Path

import uvloop

from bench import (
    burst,
    cancels,
    cold_start,
    conversations,
    dashboard,
    durability,
    files,
    floor,
    functions,
    hops,
    large_answers,
    leader,
    open_loop,
    peers,
    placement,
    random_scenarios,
    rest,
    scale,
    simulation,
    spans,
    streams,
    switching,
    takeover,
    tenants,
    text_overhead,
    throughput,
)

RESULTS = Path(__file__).parent / "RESULTS.md"

OPENING = """\
# Measurements

Made by `make bench` on {date}: {cores} cores, {machine}, Python {python}. Load generator, gateway, NATS server
(file storage, durable submission), scheduler and worker share these cores. Figures of one run on one machine:
compare them with each other, not with another machine's.

## At rest

{rest}

## Throughput of the whole system, `synthetic` engine (`python -m bench.throughput`)

Goals on the machine of the prototype: 4,880 requests/s at 64 connections, 1.09 ms median at 1 connection,
266,000 tokens/s at 64 streams.

{throughput}

A request at 1 connection crosses ten process boundaries (client, gateway, NATS, scheduler, NATS, worker,
runner, worker, NATS, gateway). The prototype had no runner process, which costs the difference to its goal and
buys that an engine's crash fails one job and not the worker.

## The scheduler core alone (`python -m bench.placement`)

A placement is one job taken through arrival, assignment, acceptance and finish, with random models and half of
the slots busy; with pinned specs each worker was started for one model. A tick comes while every slot is taken.
Goals: 50,000/s with 1,000 workers and pinned specs; 5 ms for a tick with 5,000 workers and 200 models.

{placement}

## A real model, beside llama.cpp's own server (`python -m bench.text_overhead`)

SmolLM2-135M (Q4_1) with four slots, asked in turns in the same minute; medians. Goals: 97 % of the tokens, and
the first token 3 ms later at most.

{text_overhead}

## Conversations on two replicas (`python -m bench.conversations`)

Six at a time, five turns each. Of the prompts after the first turn, what was cached where they went.

{conversations}

## Placement in simulation (`python -m bench.simulation`)

The production core, and policies as others have published them ([docs/simulation.md](../docs/simulation.md)):
3,000 requests each, means of the seeds 1, 2 and 3. `bound` loads nothing and has one queue for all.

{simulation}

Two specs that race, each out of stock half of the time for 180 s on average, beside one of them alone; means of
the seeds 1 to 20:

{races}

Scenarios by chance, which nothing was tuned to (`python -m bench.random_scenarios`), beside the better of
`serverlessllm` and `swarmui`:

{random_scenarios}

## A burst on real workers (`python -m bench.burst`)

Eight workers of the `synthetic` engine, each with room for one of twelve models, asked for half as much again
as they can do for 40 s; beside it the simulation of the same requests. Goal: within 15 %.

{burst}

## Switching image models (`python -m bench.switching`)

Seconds from request to picture (one step, 64x64), with and without a switch before it; medians of five, on a
CPU. The figures for a GPU (SDXL in fp16, 1024x1024, batches, peak memory) are missing, for want of one.

{switching}

## From zero (`python -m bench.cold_start`)

A request at zero: the autoscaler decides, a worker process is launched, connects, loads a small GGUF
and answers. Goal: under 3 s. What shortened it: the decision comes with the queue's depth and not with a tick;
engines are imported in the runner process only, and only the one that the spec names; a worker that serves one
spec loads it before it is asked; changes travel in a heartbeat after 20 ms.

{cold_start}

## A leading scheduler dies (`python -m bench.takeover`)

kill -9 of the leader; one worker that ends a job in 20 ms. The lease takes 1.2 s to run out. Goals: under 1 s
at 10,000 jobs, under 3 s at 200,000.

{takeover}

## What is on the disk (`python -m bench.durability`)

{durability}

## After a cancel the engine has stopped (`python -m bench.cancels`)

Milliseconds from the client's request, or its going ("left"), to the job's stored end, which the worker writes
when the engine has stopped; 100 of each. Goal: 99 of 100 in 250 ms, and no other job touched. Jobs that
completed had ended before.

{cancels}

## An hour of mixed traffic (`python -m bench.soak --minutes 60`, not part of `make bench`)

166,427 requests, 53,233 jobs of every kind at eight clients, no refusal. The last quarter beside the second
one: gateway 77.6 and 77.1 MB, scheduler 81.8 and 81.0, autoscaler 45.9 and 45.2, workers and runners unchanged,
all descriptors unchanged, streams and buckets unchanged but for STOKER_RESULTS: it keeps the ends of the last
hour (1.0 kB a job), and so nats-server takes 66 and 51 MB.

## The dashboard in Chromium (`python -m bench.dashboard`)

Milliseconds from an update to the laid-out page; made-up workers, models and history below the event streams.

{dashboard}

## Functions (`python -m bench.functions`)

Three workers and three checkpoints, one fits per worker; keys of a Zipf law, four callers. Goal: over 95 % hot.

{functions}

## Files in and out (`python -m bench.files`)

Goal: 60 % of what the object store alone does, and no memory that grows with a file in gateway, worker, runner
and host process. What nats-server itself takes is its cache of what was written last.

{files}

## Tokens that come one by one (`python -m bench.streams`)

{streams}

## Between the processes (`python -m bench.hops`)

{hops}

## Where the time of a request goes (`python -m bench.spans`)

Medians in ms, with tracing on; `store` goes on beside `return`.

{spans}

## What no durable request can go below (`python -m bench.floor`)

{floor}

## What one leading scheduler carries (`python -m bench.leader`)

{leader}

## Requests that come by chance, mixed ones too (`python -m bench.open_loop`)

{open_loop}

## A noisy tenant and twenty quiet ones (`python -m bench.tenants`)

{tenants}

## Large answers (`python -m bench.large_answers`)

{large_answers}

## Long and wide (`python -m bench.scale`)

{scale}
"""
PEERS = """
## Beside nginx, the Rust routers and LiteLLM, in front of the same upstream (`python -m bench.peers FOLDER …`)

Stoker's `engine: OpenAI`, durable and placed by cache; the peers keep nothing.

{peers}
"""


def main(folders: list[Path]) -> None:
    """folders: of the peers' commands, where they are to be measured."""
    text = OPENING.format(
        date=datetime.date.today().isoformat(),
        cores=os.cpu_count(),
        machine=platform.machine(),
        python=platform.python_version(),
        rest="\n".join(rest.report()),
        throughput="\n".join(uvloop.run(throughput.main())),
        placement="\n".join(placement.report()),
        simulation="\n".join(simulation.report()),
        races="\n".join(simulation.races()),
        random_scenarios="\n".join(random_scenarios.report()),
        burst="\n".join(burst.report()),
        switching="\n".join(switching.report()),
        cold_start="\n".join(cold_start.report()),
        takeover="\n".join(uvloop.run(takeover.main(takeover.COUNTS))),
        durability="\n".join(uvloop.run(durability.main())),
        cancels="\n".join(cancels.report()),
        dashboard="\n".join(dashboard.report()),
        functions="\n".join(functions.report()),
        files="\n".join(files.report()),
        text_overhead="\n".join(uvloop.run(text_overhead.main())),
        conversations="\n".join(uvloop.run(conversations.main())),
        streams="\n".join(streams.report()),
        hops="\n".join(hops.report()),
        spans="\n".join(spans.report()),
        floor="\n".join(floor.report()),
        leader="\n".join(leader.report()),
        open_loop="\n".join(open_loop.report()),
        tenants="\n".join(tenants.report()),
        large_answers="\n".join(large_answers.report()),
        scale="\n\n".join("\n".join(rows) for rows in scale.report().values()),
    )
    if folders:
        text += PEERS.format(peers="\n".join(peers.report([one.absolute() for one in folders])))
    RESULTS.write_text(text)
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, nargs="+", default=[], help="folders of the peers' commands")
    main(parser.parse_args().peers)
