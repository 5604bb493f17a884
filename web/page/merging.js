/** How entries that are stored and entries that are under way become one list. */

import { answerEntry, isUnderWay } from './thread.js';

/** Put entries that are not stored in their places: answers after their messages. */
export function placed(entries, open) {
  const all = [...entries];
  for (const entry of open) {
    const isItsMessage = (each) => entry.kind === 'answer' && isMessageOf(each, entry.runId);
    const at = all.findLastIndex(isItsMessage);
    all.splice(at < 0 ? all.length : at + 1, 0, entry);
  }
  return all;
}

export function isMessageOf(entry, runId) {
  return entry.kind === 'user' && runId !== null && entry.runId === runId;
}

export function dropAnswer(messages) {
  while (messages.length && messages.at(-1).role !== 'user') messages.pop();
}

/** Return what is shown of a message already, where that says as much as what is stored. */
export function kept(shown, fresh) {
  if (!shown) return fresh;
  if (shown.kind === 'user') {
    return Object.assign(shown, { id: fresh.id, createdAt: fresh.createdAt });
  }
  if (shown.isBroken) return fresh;
  const isSame = shown.ids.length ? shown.ids.length === fresh.ids.length : !isUnderWay(shown);
  return isSame ? shown : fresh;
}

export function nameOf(entry) {
  return `${entry.kind}:${entry.runId ?? entry.id ?? entry.ids?.[0] ?? entry.key}`;
}

/**
 * Whether an answer of which nothing is stored is still to be shown: it failed or was ended before
 * it said anything, and nothing was said since. Where it was ended before its turn came, its
 * message was taken back, too.
 */
export function leftNothing(entry, stored, isLast) {
  if (entry.kind !== 'answer') return false;
  const isFailed = entry.state === 'failed';
  if (stored.some((each) => isMessageOf(each, entry.runId))) {
    return isMessageOf(stored.at(-1), entry.runId) && (isFailed || !entry.parts.length);
  }
  return isFailed && isLast;
}

/** Show how the last run ended, which its messages do not say. */
export function explain(entries, run) {
  const last = entries.at(-1);
  if (!run || last?.runId !== run.run_id) return;
  const { agent, model, finish_reason: finishReason, error } = run;
  const fields = { agent, model, finishReason, error, state: error ? 'failed' : 'done' };
  if (last.kind === 'answer' && !last.agent) Object.assign(last, fields);
  else if (last.kind === 'user' && error) {
    entries.push(answerEntry({ runId: run.run_id, ...fields }));
  }
}

/** Whether a run that the service says is under way has ended, as this page knows. */
export function isOvertaken(entries, { active_run_id: active, waiting }) {
  const open = [active, ...waiting.map((each) => each.run_id)];
  return entries.some((each) => {
    const isOver = each.kind === 'answer' && !isUnderWay(each) && !each.isBroken;
    return isOver && each.runId !== null && open.includes(each.runId);
  });
}
