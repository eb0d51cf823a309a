# SPDX-License-Identifier: MIT
# bash completion for volchainctl(1), which computes it itself.

_volchainctl() {
    local cur words cword word
    _get_comp_words_by_ref -n =: cur words cword
    cur=${cur//\\/}
    while IFS= read -r word; do
        if [[ $word == :files ]]; then
            [[ $cur == --*=* ]] && cur=${cur#*=}
            _filedir
            return
        fi
        # For bash the word begins after a '='.
        [[ $cur == *=* ]] && word=${word#"${cur%%=*}="}
        printf -v word %q "$word"
        COMPREPLY+=("$word")
    done < <("${words[0]}" complete -- "${words[@]:1:cword-1}" "$cur" 2>/dev/null)
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    [[ $cur == *=* ]] && cur=${cur#*=}
    __ltrim_colon_completions "$cur"
} && complete -F _volchainctl volchainctl
