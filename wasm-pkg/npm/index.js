import load, { __setErrorClass } from "./ringback.js";

export {
    Contacts,
    Identity,
    Link,
    Registry,
    Stream,
    formatDeviceLink,
    parseDeviceId,
    parseDeviceLink,
} from "./ringback.js";

/** What this package throws: `code` is for programs, `message` is a sentence for a person. */
export class RingbackError extends Error {
    constructor(message, details) {
        super(message);
        this.name = "RingbackError";
        this.code = details.code;
        if (details.retryAfterS !== undefined) this.retryAfterS = details.retryAfterS;
        if (details.lastSeen !== undefined) this.lastSeen = details.lastSeen;
        if (details.newDevice !== undefined) this.newDevice = details.newDevice;
    }
}

let loading;

/**
 * Loads the WebAssembly. Await it once, before anything else; later calls change nothing.
 * Without an argument it is `ringback_bg.wasm` beside this file.
 */
export function init(source) {
    loading ??= load(source === undefined ? undefined : { module_or_path: source }).then(
        () => __setErrorClass(RingbackError),
        (error) => {
            loading = undefined;
            throw error;
        },
    );
    return loading;
}
