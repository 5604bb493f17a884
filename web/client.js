/**
 * The client of a Parley service, for a page and for Node, without a dependency: this file and the
 * folder `client/` beside it.
 *
 *     import { ParleyClient } from './client.js';
 *     const client = new ParleyClient('http://127.0.0.1:8000');
 *     for await (const event of client.chat({ message: 'What is 15 + 27?' })) {
 *       if (event.event_type === 'chat_chunk') console.log(event.content);
 *     }
 *     client.close();
 *
 * What it promises: the events of a run come exactly once and in their order, whatever happens to
 * the connection, and a message is answered once, however often it had to be sent. So nothing
 * throws for want of a connection: what is to be sent waits, a run goes on after its cursor.
 *
 * How it is made:
 * - A `Lane` is one run as its reader sees it. It outlives connections.
 * - A link is one connection: `SocketLink` one WebSocket for all lanes, `HttpLink` an event stream
 *   for each lane. A link that is lost is forgotten with all it knew; its lanes go to the next.
 * - A `Connection` makes links; `Traffic` gives them the lanes and the commands that are on none.
 */

export { ParleyClient } from './client/client.js';
export { ParleyError } from './client/errors.js';
export { FrameDecoder } from './client/frames.js';
export { Run } from './client/run.js';
