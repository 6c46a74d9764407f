"""What each stream and bucket is for, as `nats stream ls` and `nats kv ls` show it."""

from stoker.schemas import subjects as names

STREAMS = {
    names.JOBS_STREAM: "Jobs that were accepted, until their result is stored",
    names.RESULTS_STREAM: "How jobs ended, one record each, for a day",
    names.EVENTS_STREAM: "What happened and why: placements, loads, launches, what operators did",
    names.HISTORY_STREAM: "Samples and jobs of the last day, for the dashboard's time axis",
    names.RETRIES_STREAM: "Jobs as they were accepted, to be run again",
    names.WEBHOOKS_STREAM: "Results that somebody wants posted, until they are",
    names.QUARANTINE_STREAM: "Messages that could not be handled, with the reason",
    names.BLOBS_STREAM: "Parts of large inputs and results, encrypted",
    names.FILES_STREAM: "Parts of clients' files and of results of batches",
}
BUCKETS = {
    names.CATALOG_BUCKET: "Models, profiles and the revision of the configuration",
    names.REPLICAS_BUCKET: "Replicas that were launched, by model",
    names.KEYS_BUCKET: "API keys: their hashes and what they may do",
    names.SECRETS_BUCKET: "What services share: keys of seals and of webhook signatures",
    names.SCHEDULES_BUCKET: "Calls at times that repeat",
    names.USAGE_BUCKET: "What keys have used, by day and model",
    names.LEASES_BUCKET: "Who leads",
    names.CONVERSATIONS_BUCKET: "Responses that may be gone on with",
    names.FILES_BUCKET: "Clients' files: names, sizes, owners",
    names.BATCHES_BUCKET: "Batches and how far they are",
    names.UPLOADS_BUCKET: "Uploads in parts that are under way",
}
