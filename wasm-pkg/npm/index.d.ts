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
export type {
    CallEvent,
    CallOptions,
    Candidate,
    CandidatePair,
    Contact,
    DeviceLink,
    LinkEnd,
    LinkState,
    LinkStats,
    Receipt,
    RegistryInfo,
    RestartOptions,
    Service,
} from "./ringback.js";
import type { InitInput } from "./ringback.js";

/** What went wrong. Codes of the registry and of devices that are not listed here can come, too. */
export type ErrorCode =
    /** The device refuses: `retryAfterS` says when it takes attempts again. */
    | "wrong_password"
    | "unknown_caller"
    | "rate_limited"
    | "unknown_service"
    | "service_unreachable"
    | "stale"
    /** The device is not to be had: `lastSeen` says since when. */
    | "device_offline"
    | "unknown_device"
    | "unknown_alias"
    | "revoked"
    | "no_answer"
    | "shutting_down"
    /** The name leads to another key, `newDevice`, than it did. */
    | "key_changed"
    | "registry_unreachable"
    /** The registry passed on what the device did not say. */
    | "registry_lies"
    /** The device is willing, and nothing gets through. */
    | "no_path"
    | "local_network_denied"
    /** Who answers on the path is not the device. */
    | "wrong_certificate"
    | "device_misbehaved"
    | "cancelled"
    | "bad_id"
    | "bad_password"
    | "unsupported"
    | "link_closed"
    | "stream_reset"
    | "too_many_streams"
    | (string & {});

/** What this package throws: `code` is for programs, `message` is a sentence for a person. */
export class RingbackError extends Error {
    private constructor();
    readonly name: "RingbackError";
    readonly code: ErrorCode;
    readonly retryAfterS?: number;
    /** Unix seconds. */
    readonly lastSeen?: number;
    readonly newDevice?: string;
}

/**
 * Loads the WebAssembly. Await it once, before anything else; later calls change nothing.
 * Without an argument it is `ringback_bg.wasm` beside this file.
 */
export function init(source?: InitInput | Promise<InitInput>): Promise<void>;
