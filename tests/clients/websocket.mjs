// Chats once over the WebSocket and prints what it understood as one line of JSON.
// Usage: node [--experimental-websocket] websocket.mjs <base URL> <message>
const [, , base, message] = process.argv;
const ws = new WebSocket(`${base.replace('http', 'ws')}/ws`);
const seen = { chunks: [], tools: [], errors: [], final: null, types: [] };

ws.onopen = function () {
    ws.send(JSON.stringify({
        type: 'chat',
        data: { message, reset_history: false, parallel_tools: true },
    }));
};

ws.onmessage = function (event) {
    const response = JSON.parse(event.data);
    seen.types.push(response.type);
    if (response.type === 'chat_chunk') {
        seen.chunks.push(response.data.content);
    } else if (response.type === 'tool_call') {
        seen.tools.push(response.data);
    } else if (response.type === 'error') {
        seen.errors.push(response.data);
        ws.close();
    } else if (response.type === 'chat_complete') {
        seen.final = response.data.final_response;
        ws.close();
    }
};

ws.onclose = function () {
    console.log(JSON.stringify(seen));
};

ws.onerror = function () {
    console.error('the socket broke');
    process.exitCode = 1;
};
