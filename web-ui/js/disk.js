// Files on this browser's own disk space, written in place, so that what has arrived survives the
// tab. Handles of this kind exist in workers only.
const open = new Map();

const root = async () => {
  const storage = await navigator.storage.getDirectory();
  return storage.getDirectoryHandle("transfers", { create: true });
};

const operations = {
  async open({ name }) {
    const file = await (await root()).getFileHandle(name, { create: true });
    open.set(name, await file.createSyncAccessHandle());
    return open.get(name).getSize();
  },
  write({ name, at, data }) {
    const handle = open.get(name);
    const bytes = new Uint8Array(data);
    let written = 0;
    while (written < bytes.length) {
      const count = handle.write(bytes.subarray(written), { at: at + written });
      if (count === 0) throw new DOMException("no room", "QuotaExceededError");
      written += count;
    }
  },
  read({ name, at, length }) {
    const bytes = new Uint8Array(length);
    const count = open.get(name).read(bytes, { at });
    return bytes.buffer.slice(0, count);
  },
  flush({ name }) {
    open.get(name).flush();
  },
  close({ name }) {
    const handle = open.get(name);
    if (!handle) return;
    open.delete(name);
    handle.flush();
    handle.close();
  },
  async remove({ name }) {
    operations.close({ name });
    await (await root()).removeEntry(name).catch(() => {});
  },
};

onmessage = async ({ data }) => {
  try {
    const value = await operations[data.op](data);
    postMessage({ id: data.id, value }, value instanceof ArrayBuffer ? [value] : []);
  } catch (error) {
    postMessage({ id: data.id, error: error?.name || "Error" });
  }
};
