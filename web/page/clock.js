/** The service's clock, by which it says when a call began; the browser's own may be wrong. */

let ahead = 0;

/** Set the clock by what the service says its time is. */
export function setClock(time) {
  ahead = Date.parse(time) - Date.now();
}

/** @returns {number} The service's time in ms, as near as that is known here. */
export function now() {
  return Date.now() + ahead;
}
