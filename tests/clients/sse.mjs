// Streams one chat with fetch and prints what it understood as one line of JSON.
// Usage: node sse.mjs <base URL> <message>
const [, , base, message] = process.argv;

async function streamChat(message) {
    const seen = { chunks: [], tools: [], final: null, types: [] };
    const response = await fetch(`${base}/chat/stream`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({ message, reset_history: false, parallel_tools: true }),
    });
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    let rest = '';
    while (true) {
        const { done, value } = await reader.read();
        if (done) break;
        // A read may end anywhere: the last line is kept until it is whole.
        const lines = (rest + decoder.decode(value, { stream: true })).split('\n');
        rest = lines.pop();
        for (const line of lines) {
            if (!line.startsWith('data: ')) continue;
            const data = JSON.parse(line.slice(6));
            seen.types.push(data.event_type);
            if (data.event_type === 'chat_chunk') {
                seen.chunks.push(data.content);
            } else if (data.event_type === 'tool_call_complete') {
                seen.tools.push(data.tool_call);
            } else if (data.event_type === 'chat_complete') {
                seen.final = data.final_response;
            }
        }
    }
    return seen;
}

console.log(JSON.stringify(await streamChat(message)));
