// What the gateway keeps of the last day, asked for in the part that is looked at and kept here: each moment once.
import { ask, query } from "../api.js";

export const DAY_S = 24 * 3600;
export const DETAIL_S = 2 * 3600; // single jobs are shown up to this span; beyond it, how busy each worker was
const PAGE = 5000;
const MAX_PAGES = 10;
const MAX_KEPT = 100_000;
const LATE_S = 3; // what is told of a moment may come so much later

class Kept {
  constructor(path, field, keyOf) {
    Object.assign(this, { path, field, keyOf, items: new Map(), from: 0, until: 0, isCut: false });
  }

  async cover(from, until) {
    if (this.until && (from > this.until || until < this.from) || this.items.size > MAX_KEPT) this.forget();
    if (!this.until) {
      await this.load(from, until);
      [this.from, this.until] = [from, until - LATE_S];
      return;
    }
    if (from < this.from - 1) {
      await this.load(from, this.from);
      this.from = from;
    }
    if (until > this.until) {
      await this.load(this.until, until);
      this.until = Math.max(this.until, until - LATE_S);
    }
  }

  forget() {
    this.items.clear();
    this.from = this.until = 0;
    this.isCut = false;
  }

  async load(from, until) {
    let cursor = 0;
    for (let page = 0; page < MAX_PAGES; page += 1) {
      const found = await ask(query(this.path, { from, until, cursor, limit: PAGE }));
      for (const one of found[this.field]) this.items.set(this.keyOf(one), one);
      if (found.left_out) this.isCut = true;
      cursor = found.next_cursor;
      if (!cursor) return;
    }
    this.isCut = true;
  }

  list() { return [...this.items.values()]; }
}

export class History {
  constructor() {
    this.jobs = new Kept("/v1/history/jobs", "jobs", (one) => one.id);
    this.samples = new Kept("/v1/history/samples", "samples", (one) => one.at);
    this.events = new Kept("/v1/history/events", "events", (one) => `${one.at} ${one.kind} ${one.subject} ${one.worker || ""}`);
    this.underWay = [];
  }

  // Everything of a window; jobs one by one where it is short enough.
  async cover(from, until) {
    const asked = [this.samples.cover(from, until), this.events.cover(from, until)];
    if (until - from <= DETAIL_S) asked.push(this.jobs.cover(from, until));
    if (until > Date.now() / 1000 - 10) asked.push(this.lookAtUnderWay());
    await Promise.all(asked);
  }

  async lookAtUnderWay() {
    const found = await Promise.all(["running", "assigned", "queued"].map((status) => ask(query("/v1/jobs", { status, limit: 200 }))));
    this.underWay = found.flatMap((one) => one.jobs);
  }
}
