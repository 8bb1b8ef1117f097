-- TempCardsAddonExtProdScriptOptions: ordering temporary cards from a production bureau.
--
-- Change values only. A line left out keeps the value shown here. Helpers are `local`.
-- A value may be a function of what is known of the item; it is called once per item. For an order there is
-- no card yet, and a temporary card may have no user: both arguments may be nil.

-- What the bureau produces: the name of a production type, or a list of names from which the operator picks,
-- the first being preset: { "standard", "visitor" }.
TempCardsAddonExtProdProductionType = "standard"

-- Whether orders wait in a queue for the next order sync (true) or are sent at once (false).
TempCardsAddonExtProdQueueCards = true
