// What the platform calls: the entry of the worker, and the classes of its objects.
//
// A panic ends an instance of the wasm module for good. The call in which it happens fails; the next
// one gets a fresh instance, and each object is made anew in it from what it has stored.
import { WorkerEntrypoint } from "cloudflare:workers";
import * as wasm from "./index.js";

// `criticalError` is set by the panic hook of the crate `worker`, and `instanceId` counts the starts.
const state = wasm.__worker_init_state();

// More than V8's ten: frames of wasm are many.
Error.stackTraceLimit = 100;

const fail = (error) => {
  // A trap that is no panic, such as an overflow of the stack.
  if (error instanceof WebAssembly.RuntimeError) state.criticalError = true;
  throw error;
};

const inWasm = (call) => {
  if (state.criticalError) {
    console.log("a new instance of the module");
    state.criticalError = false;
    wasm.__wbg_reset_state();
  }
  try {
    const result = call();
    return result instanceof Promise ? result.catch(fail) : result;
  } catch (error) {
    fail(error);
  }
};

export default class extends WorkerEntrypoint {
  fetch(request) {
    return inWasm(() => wasm.fetch.call(this, request, this.env, this.ctx));
  }
}

const HANDLERS = ["fetch", "alarm", "webSocketMessage", "webSocketClose", "webSocketError"];

const durable = (Inner) => {
  class Durable {
    #make;
    #inner;
    #instance;

    constructor(storage, env) {
      this.#make = () => new Inner(storage, env);
      inWasm(() => this.#current());
    }

    #current() {
      if (this.#instance !== state.instanceId) {
        this.#inner = this.#make();
        this.#instance = state.instanceId;
      }
      return this.#inner;
    }

    static handle(name) {
      this.prototype[name] = function (...given) {
        return inWasm(() => this.#current()[name](...given));
      };
    }
  }
  // The platform looks which of them a class has.
  for (const name of HANDLERS) if (name in Inner.prototype) Durable.handle(name);
  return Durable;
};

export const DeviceObject = durable(wasm.DeviceObject);
export const DirectoryObject = durable(wasm.DirectoryObject);
export const RelayObject = durable(wasm.RelayObject);
