// Gradio's server closes the stream of answers when none is due. Its page may send a request before it knows of that: the
// answer then waits on the server until the next request. In this case, this sends one.
(() => {
  const due = new Set(), early = new Set(); // events whose answer isn't complete; those that were before it was known
  const ask = window.fetch;
  let streams = 0;

  const look = () => {
    if (streams || !due.size) return;
    const fetch = document.querySelector("#fetch");
    if (!fetch) { setTimeout(look, 200); return; } // the page is still being built
    due.clear();
    fetch.click();
  };
  const listen = async (body) => {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const [, event] = /^data: ?\{"msg": ?"process_completed", ?"event_id": ?"(\w+)"/.exec(line) ?? [];
        if (event && !due.delete(event)) early.add(event);
      }
    }
  };
  window.fetch = async (resource, options) => {
    const path = new URL(resource.url ?? resource, location.href).pathname;
    const isStream = path.endsWith("/queue/data");
    if (isStream) streams += 1;
    const ended = () => { streams -= 1; setTimeout(look, 200); };
    let reply;
    try {
      reply = await ask(resource, options);
    } catch (error) {
      if (isStream) ended();
      throw error;
    }
    if (path.endsWith("/queue/join") && reply.ok) {
      const { event_id: event } = await reply.clone().json();
      if (event && !early.delete(event)) due.add(event);
    } else if (isStream) {
      const [own, theirs] = reply.body.tee();
      listen(own).catch(() => {}).finally(ended);
      return new Response(theirs, { status: reply.status, headers: reply.headers });
    }
    return reply;
  };
})();
