"""Every command: where it is written, what it does in a line, and where it stands in `stoker --help`.

`stoker --help` is printed from this table, so no command is imported for it; of a command that is called, its
module alone is. The help is the first line of the command's docstring (tests/unit/cli/test_command_line.py).
"""

from typing import NamedTuple


class Command(NamedTuple):
    """module: of stoker.cli, without that."""

    name: str
    module: str
    help: str


GROUPS: dict[str, tuple[Command, ...]] = {
    "Models": (
        Command("run", "run", "Ask a model: text streams to the terminal, an image is saved."),
        Command("chat", "chat", "Talk to a model: it remembers what was said; /bye ends."),
        Command("call", "functions", "Call a function; results and files come as they are made."),
        Command("pull", "pulling", "Get a model from the hub, or take in a file."),
        Command("list", "pulling", "Models that can be asked, and where they come from."),
        Command("ps", "pulling", "Models that are in memory, and where."),
        Command("rm", "pulling", "Forget a model of the background server; its file stays."),
        Command("models", "look", "Models, their queues, and which worker has them where."),
        Command("functions", "functions", "Functions, what they take, and the models that they may be given."),
        Command("stubs", "functions", "A typed client as a stub file: `stoker stubs > client.pyi`."),
    ),
    "Servers": (
        Command("init", "init", "Write a folder to begin with: configuration, comments, next steps."),
        Command("up", "serve", "Start NATS, all services and the configured workers."),
        Command("serve", "pulling", "Start the background server here; Ctrl-C stops it."),
        Command("stop", "pulling", "Take a model out of memory, or stop the background server."),
        Command("check", "check", "Read a configuration and say what it means, or what is wrong with it."),
        Command("schema", "schema", "Print what describes the configuration, the APIs or the bus."),
        Command("doctor", "look", "What is installed, what is reachable, and what to do about the rest."),
        Command("profile", "profiles", "Servers by name, for who has several."),
    ),
    "Jobs": (
        Command("jobs", "jobs", "Jobs, newest first."),
        Command("job", "jobs", "One job: its state, its times, its result or what went wrong."),
        Command("explain", "look", "Why a job went to the worker where it went."),
        Command("logs", "functions", "What a call has printed: its first and its last 32 KiB."),
        Command("cancel", "jobs", "Cancel a job, wherever it stands."),
        Command("schedule", "schedules", "Calls at times that repeat, as cron has them."),
    ),
    "Workers": (
        Command("top", "look", "Workers, models and jobs as they change; Ctrl-C ends it."),
        Command("workers", "invitations", "Workers, their memory, what they have loaded; and inviting them."),
        Command("specs", "fleet", "Replicas of models with hardware of their own: wanted, there, why not."),
        Command("events", "fleet", "What happened and why, oldest first."),
    ),
    "Operating": (
        Command("keys", "keys", "Make, list and revoke API keys."),
        Command("usage", "usage", "What keys have used, by day and model."),
        Command("quarantine", "quarantine", "What could not be handled, and was put aside."),
        Command("backup", "backup", "Save all that a running system has stored, as one archive."),
        Command(
            "restore",
            "backup",
            "Make a system what an archive has: on STOKER_NATS, or in the --data of the next `stoker up`.",
        ),
        Command("users", "installation", "Print nats-server's file of users: what each service may do."),
        Command("webhook-secret", "installation", "Print the key with which webhooks are signed."),
        Command(
            "install-streams", "installation", "Make the streams on a NATS server, or bring them up to date."
        ),
        Command("gateway", "services", "Run one gateway."),
        Command("scheduler", "services", "Run one scheduler."),
        Command("worker", "services", "Run one worker."),
        Command("autoscaler", "services", "Run one autoscaler."),
    ),
    "Measuring": (
        Command("bench", "bench", "Ask a running system many times, and show how quick it was."),
        Command("chaos", "chaos", "Kill, pause and cut off processes under traffic; 1 if a promise broke."),
        Command("simulate", "simulate", "What would happen: the production scheduler in virtual time."),
        Command("record", "record", "Write down what a running system is asked, for `stoker simulate`."),
        Command("replay", "replay", "Run the core over a recording, and say where it decides otherwise."),
    ),
}

COMMANDS: dict[str, Command] = {one.name: one for group in GROUPS.values() for one in group}
