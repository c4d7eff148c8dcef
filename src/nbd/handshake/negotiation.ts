/**
 * What a client has agreed on so far with its options.
 *
 * Invariants:
 * - `forget` (after STARTTLS) leaves nothing of it (CVE-2021-3716).
 * - A selection of contexts holds for the name that the client gave, and for the device that this name
 *   meant then. For every other one there are no contexts.
 * - Flags depend on the export and on what was agreed, and on nothing else: every connection that agrees
 *   on the same hears the same.
 */
import type { BlockDevice, StatusContext } from '../../io/device.ts';
import { transmissionFlagsOf, type NbdExport } from '../server/exports.ts';
import type { Negotiated, ReplyForm, SelectedContext } from './negotiated.ts';

interface Selection {
  /** As the client gave it: '' is not the name that it stands for. */
  readonly askedName: string;
  readonly device: BlockDevice;
  readonly contexts: readonly SelectedContext[];
}

const NONE: readonly SelectedContext[] = Object.freeze([]);

export class Negotiation {
  /** Becomes `structured`, then perhaps `extended`; never less, but by `forget`. */
  form: ReplyForm = 'simple';
  private selection: Selection | null = null;

  forget(): void {
    this.form = 'simple';
    this.selection = null;
  }

  /** Each SET_META_CONTEXT begins with this, also one that fails. */
  deselect(): void {
    this.selection = null;
  }

  /** Gives each context an id of its own, from 1. */
  select(
    askedName: string,
    device: BlockDevice,
    chosen: readonly StatusContext[],
  ): readonly SelectedContext[] {
    const contexts = chosen.map((context, index) => ({ id: index + 1, context }));
    this.selection = { askedName, device, contexts };
    return contexts;
  }

  flagsOf(askedName: string, exported: NbdExport): number {
    const filters = this.contextsOf(askedName, exported).length > 0;
    return transmissionFlagsOf(exported, this.form, filters);
  }

  /** The end of it: the client enters `exported`, which it called `askedName`. */
  result(askedName: string, exported: NbdExport): Negotiated {
    return {
      exportName: exported.name,
      device: exported.device,
      flags: this.flagsOf(askedName, exported),
      form: this.form,
      contexts: this.contextsOf(askedName, exported),
    };
  }

  private contextsOf(askedName: string, { device }: NbdExport): readonly SelectedContext[] {
    const { selection } = this;
    if (selection === null) return NONE;
    if (selection.askedName !== askedName) return NONE;
    return selection.device === device ? selection.contexts : NONE;
  }
}
