/** The few words of QEMU's monitor protocol that the benchmark needs: commands in turn, events ignored. */
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { once } from 'node:events';

interface Answer {
  readonly return?: unknown;
  readonly error?: { readonly class: string; readonly desc: string };
}

export class QmpClient {
  readonly #socket: Socket;
  readonly #waiting: ((answer: Answer) => void)[] = [];

  private constructor(socket: Socket) {
    this.#socket = socket;
    createInterface(socket).on('line', (line) => {
      const message = JSON.parse(line) as Answer;
      if ('return' in message || 'error' in message) this.#waiting.shift()?.(message);
    });
    socket.on('close', () => {
      for (const answer of this.#waiting.splice(0)) {
        answer({ error: { class: 'Closed', desc: 'the monitor went away' } });
      }
    });
  }

  static async connect(path: string): Promise<QmpClient> {
    const socket = connect(path);
    await once(socket, 'connect');
    const client = new QmpClient(socket);
    await client.command('qmp_capabilities');
    return client;
  }

  async command<T = unknown>(execute: string, args: object = {}): Promise<T> {
    const answer = await new Promise<Answer>((resolve) => {
      this.#waiting.push(resolve);
      this.#socket.write(`${JSON.stringify({ execute, arguments: args })}\n`);
    });
    if (answer.error !== undefined) throw new Error(`${execute}: ${answer.error.desc}`);
    return answer.return as T;
  }

  close(): void {
    this.#socket.destroy();
  }
}
