/** Whom to call, and with what right. */
export interface CallOptions {
    /** A device ID, or a name: this browser's contacts count first, then the registry's names. */
    device: string;
    /** Without it the call is made with this browser's key, for devices that remember it. */
    password?: string;
    /** The first service wanted. Without it: the link alone, to whatever the device exposes. */
    service?: string;
    /** Asks the device to remember this browser, so that the next call needs no password. */
    remember?: boolean;
    /** After `key_changed`: the name may lead to another key than it did. */
    acceptNewKey?: boolean;
    /** Gives the call up. */
    signal?: AbortSignal;
    onEvent?: (event: CallEvent) => void;
}

/** For `Link.restart`. */
export interface RestartOptions {
    signal?: AbortSignal;
    onEvent?: (event: CallEvent) => void;
}

/** A step of a call. */
export interface CallEvent {
    step:
        | "registry"
        | "gathering"
        | "gathered"
        | "sealed"
        | "delivered"
        | "clock_corrected"
        | "accepted"
        | "checking"
        | "connected";
    /** Milliseconds since the call began. */
    atMs: number;
    detail?: string;
}

/** What a registry says of itself. */
export interface RegistryInfo {
    version: string;
    protocol_versions: number[];
    /** Unix seconds. */
    time: number;
    stun_servers: string[];
    ice_servers: { urls: string[] }[];
    lan_origin?: string;
    registration?: string;
}

/** `interrupted`: nothing has come for some seconds; it may come back by itself. */
export type LinkState = "connected" | "interrupted" | "ended";

/** Why a link has ended. */
export interface LinkEnd {
    code: "closed" | "closed_by_device" | "revoked" | "shutting_down" | "lost";
    /** A sentence for a person. */
    message: string;
}

/** A service that a device exposes. */
export interface Service {
    name: string;
    kind: "tcp" | "udp" | "http" | "shell" | "files" | "dial" | (string & {});
    writable?: boolean;
    target?: string;
}

/** An address of one end of a link. */
export interface Candidate {
    kind: "host" | "srflx" | "prflx" | "relay" | (string & {});
    /** Empty where the browser hides it. */
    address: string;
    port: number;
    protocol: string;
}

/** A pair of addresses that was tried. */
export interface CandidatePair {
    /** Index in `local`. */
    local: number;
    /** Index in `remote`. */
    remote: number;
    won: boolean;
    state: string;
    rttMs?: number;
    requestsSent: number;
    responsesReceived: number;
}

/** How a call went. */
export interface Receipt {
    device: string;
    /** `turn`: by a TURN server, since no direct path was found. */
    path: "direct" | "turn";
    rttMs?: number;
    remembered: boolean;
    deviceNat: "unknown" | "none" | "endpoint-independent" | "endpoint-dependent";
    steps: CallEvent[];
    local: Candidate[];
    remote: Candidate[];
    pairs: CandidatePair[];
}

/** Figures of a running link. */
export interface LinkStats {
    path: "direct" | "turn";
    rttMs?: number;
    bytesUp: number;
    bytesDown: number;
}

/** A device that this browser knows. */
export interface Contact {
    id: string;
    /** The name that it was called by, which leads to it. */
    name?: string;
    /** What it calls itself, as `Link.services` has heard it: for people to read, and no way to it. */
    toldName?: string;
    /** The origin of its registry. */
    registry: string;
    /** It remembers this browser: no password is needed. */
    remembered: boolean;
    /** Unix milliseconds; 0: never called. */
    lastUsedMs: number;
}

/** A link to a device, taken apart. */
export interface DeviceLink {
    registry: string;
    device: string;
    password?: string;
}
